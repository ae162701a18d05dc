"""Every descriptor that this process and those around it have; one line each: number and what it is."""

import os
import stat
import sys

for number in range(4096):
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        continue
    kind = [name for name, test in [("file", stat.S_ISREG), ("pipe", stat.S_ISFIFO), ("socket", stat.S_ISSOCK), ("device", stat.S_ISCHR), ("directory", stat.S_ISDIR)] if test(mode)]
    # The script itself is read to its end and closed by now.
    print(f"{number} {kind[0] if kind else 'other'}", flush=True)
try:
    os.open("/dev/tty", os.O_RDWR)
    print("a controlling terminal")
except OSError:
    pass
print("session", os.getsid(0) != 0, "terminal number", open("/proc/self/stat").read().rsplit(")", 1)[1].split()[4])
