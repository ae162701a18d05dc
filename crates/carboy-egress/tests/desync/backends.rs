//! Real servers that write down each request that they see, one a line: method, blank, target.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const NODE: &str = r#"
const fs = require('fs'), [, , port, log] = process.argv;
require('http').createServer({ insecureHTTPParser: false }, (req, res) => {
  fs.appendFileSync(log, `${req.method} ${req.url}\n`);
  req.resume(); req.on('end', () => res.end('ok')); req.on('error', () => {});
}).listen(+port, '127.0.0.1');
"#;

/// It takes no notice of chunks at all: what stands behind a head is a body of so many octets, or the next request.
const PYTHON: &str = r#"
import http.server, sys
port, log = int(sys.argv[1]), open(sys.argv[2], 'a', buffering=1)
class Seen(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def answer(self):
        log.write(self.command + ' ' + self.path + '\n')
        if 'chunked' in self.headers.get('Transfer-Encoding', '').lower():
            while True:
                size = int(self.rfile.readline().split(b';')[0], 16)
                self.rfile.read(size)
                self.rfile.readline()
                if size == 0: break
        else:
            self.rfile.read(int(self.headers.get('Content-Length', 0)))
        self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers()
        if self.command != 'HEAD': self.wfile.write(b'ok')
    do_GET = do_POST = do_PUT = do_HEAD = do_OPTIONS = do_DELETE = do_PATCH = answer
    def __getattr__(self, name):
        if name.startswith('do_'): return self.answer
        raise AttributeError(name)
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
Server(('127.0.0.1', port), Seen).serve_forever()
"#;

const GO: &str = r#"
package main

import ("io"; "net/http"; "os"; "sync")

func main() {
	log, err := os.OpenFile(os.Args[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil { panic(err) }
	var one sync.Mutex
	seen := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one.Lock(); log.WriteString(r.Method + " " + r.RequestURI + "\n"); one.Unlock()
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "ok")
	})
	panic(http.ListenAndServe("127.0.0.1:" + os.Args[1], seen))
}
"#;

/// One server; it ends with this.
pub struct Backend {
    pub name: &'static str,
    pub address: SocketAddr,
    log: PathBuf,
    child: Child,
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Backend {
    /// What it saw so far is not asked for again.
    pub fn forget(&mut self) {
        let file = std::fs::OpenOptions::new().write(true).open(&self.log);
        file.and_then(|file| file.set_len(0)).unwrap();
    }

    /// All that it saw so far, once it has been silent for a moment.
    pub async fn seen(&mut self) -> Vec<(String, String)> {
        let mut before = None;
        loop {
            let mut text = Vec::new();
            if let Ok(mut file) = std::fs::File::open(&self.log) {
                file.read_to_end(&mut text).unwrap();
            }
            if before == Some(text.len()) {
                let text = String::from_utf8_lossy(&text).into_owned();
                let parts = text.lines().map(|line| line.split_once(' ').unwrap_or((line, "")));
                return parts.map(|(method, target)| (method.to_owned(), target.to_owned())).collect();
            }
            before = Some(text.len());
            // A request that is under way is written down before it is answered, and the client has its answer.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// All of them, listening.
pub async fn start_all(dir: &Path) -> Vec<Backend> {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut all = vec![nginx(dir)];
    let node = write("server.js", NODE);
    all.push(start("node", dir, |port, log| {
        let mut command = Command::new("node");
        command.arg(&node).arg(port).arg(log);
        command
    }));
    let python = write("server.py", PYTHON);
    all.push(start("python", dir, |port, log| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(&python).arg(port).arg(log);
        command
    }));
    let (source, program) = (write("server.go", GO), dir.join("go-server"));
    let built = Command::new("go").arg("build").arg("-o").arg(&program).arg(&source).env("GOFLAGS", "").output();
    let built = built.expect("go is there; on Debian: apt-get install golang-go");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    all.push(start("go", dir, |port, log| {
        let mut command = Command::new(&program);
        command.arg(port).arg(log);
        command
    }));
    for backend in &all {
        listening(backend).await;
    }
    all
}

fn start(name: &'static str, dir: &Path, command: impl FnOnce(&str, &Path) -> Command) -> Backend {
    let (port, log) = (free_port(), dir.join(format!("{name}.log")));
    let child = command(&port.to_string(), &log).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child =
        child.unwrap_or_else(|error| panic!("{name}: {error}; on Debian: apt-get install nginx-light nodejs python3"));
    Backend { name, address: SocketAddr::from(([127, 0, 0, 1], port)), log, child }
}

fn nginx(dir: &Path) -> Backend {
    let at = dir.join("nginx");
    std::fs::create_dir(&at).unwrap();
    start("nginx", dir, |port, log| {
        let config = format!(
            "daemon off; master_process off; pid {0}/pid; error_log /dev/null; worker_rlimit_nofile 4096;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ log_format seen escape=none '$request_method $request_uri'; access_log {1} seen;\n\
             client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }} }}\n",
            at.display(),
            log.display()
        );
        std::fs::write(at.join("conf"), config).unwrap();
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|path| Path::new(path).exists());
        let mut command = Command::new(program.unwrap_or("nginx"));
        command.arg("-p").arg(&at).arg("-c").arg(at.join("conf"));
        command
    })
}

async fn listening(backend: &Backend) {
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(backend.address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} does not listen", backend.name);
}
