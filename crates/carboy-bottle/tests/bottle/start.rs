//! A bottle stands, runs a program, and says how it ended.

use carboy_bottle::ExitOutcome;
use libtest_mimic::Trial;

use crate::harness::{Sketch, prints, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("true ends with 0", || Sketch::new(&["true"]).run()?.expect_code(0)),
        trial("an exit code passes through", || Sketch::shell("exit 7").run()?.expect_code(7)),
        trial("a signal passes through", || {
            let ran = Sketch::shell("kill -TERM $$").run()?;
            assert_eq!(ran.report.outcome, ExitOutcome::Signal(15));
            assert_eq!(ran.report.outcome.shell_code(), 143);
            Ok(())
        }),
        trial("a missing program is told from one that failed", || {
            let ran = Sketch::new(&["no-such-program"]).run()?;
            assert_eq!(ran.report.outcome, ExitOutcome::NotStarted(2));
            assert_eq!(ran.report.outcome.shell_code(), 127);
            Ok(())
        }),
        prints(
            "the program is uid and gid 1000 and in no other group",
            "id -u; id -g; id -G | tr 65534 x",
            "1000\n1000\n1000",
        ),
    ]
}
