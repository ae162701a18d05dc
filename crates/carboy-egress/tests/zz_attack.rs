//! scratch
#![allow(clippy::unwrap_used, missing_docs)]
mod support;
use std::time::{Duration, Instant};
use std::sync::Arc;
use carboy_guard::*;
use carboy_core::finding::*;
use carboy_egress::GatewayLimits;
use http::Method;
use support::*;

fn rng(x: &mut u64) -> u64 { *x ^= *x << 13; *x ^= *x >> 7; *x ^= *x << 17; *x }

#[test]
fn fuzz_decoders() {
    let seeds: Vec<(Coding, Vec<u8>)> = {
        let text = b"hello hello hello world sk-test 1234567890 hello hello".repeat(40);
        let gz = { let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best()); std::io::Write::write_all(&mut w, &text).unwrap(); w.finish().unwrap() };
        let zl = { let mut w = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best()); std::io::Write::write_all(&mut w, &text).unwrap(); w.finish().unwrap() };
        let run = |prog: &str, args: &[&str]| { use std::process::*; let mut c = Command::new(prog).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?; std::io::Write::write_all(c.stdin.as_mut().unwrap(), &text).ok()?; drop(c.stdin.take()); Some(c.wait_with_output().ok()?.stdout) };
        let mut v = vec![(Coding::Gzip, gz), (Coding::Deflate, zl)];
        if let Some(z) = run("zstd", &["-19", "-c"]) { v.push((Coding::Zstd, z)); } else { println!("no zstd"); }
        if let Some(z) = run("brotli", &["-c"]) { v.push((Coding::Brotli, z)); } else { println!("no brotli");
            v.push((Coding::Brotli, vec![0x1b, 0x0a, 0x00, 0x00, 0xa4, 0xb0, 0xb2, 0xea, 0x81, 0x47, 0x02, 0x8a])); }
        v.push((Coding::Zstd, vec![0x28,0xb5,0x2f,0xfd,0x00,0x58,0x21,0,0,b'a',b'b',b'c',b'd']));
        v
    };
    let mut x = 88172645463325252u64;
    let start = Instant::now();
    let mut n = 0u64; let mut slow = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(25) {
        let (c, s) = &seeds[(rng(&mut x) % seeds.len() as u64) as usize];
        let mut b = s.clone();
        for _ in 0..1 + rng(&mut x) % 6 {
            let i = (rng(&mut x) % b.len() as u64) as usize;
            match rng(&mut x) % 4 { 0 => b[i] ^= 1 << (rng(&mut x) % 8), 1 => b[i] = rng(&mut x) as u8, 2 => { b.truncate(i + 1) } _ => { let y = b[..i].to_vec(); b.splice(i..i, y); } }
            if b.len() > 5000 { b.truncate(5000); }
        }
        let t = Instant::now();
        let cc = *c; let bb = b.clone();
        let r = std::panic::catch_unwind(move || {
            let mut inf = Inflate::new(&[cc], DecodedMax(1 << 22)); let mut out = Vec::new(); let mut rest = &bb[..];
            loop { match inf.push(rest, &mut out) { Ok(p) => { rest = &rest[p.consumed..]; if !p.more { break } } Err(_) => return } }
            let _ = inf.finish();
        });
        if r.is_err() { println!("PANIC {c:?} {b:02x?}"); return; }
        let e = t.elapsed(); if e > slow { slow = e; println!("slow {c:?} {e:?} {}", b.len()); }
        n += 1;
    }
    println!("{n} inputs");
}

#[test]
fn fuzz_text() {
    let mut x = 77u64;
    let alphabet: Vec<&[u8]> = vec![b"p@$$-w0rd!", b"kq7Rz2Vx9LmWp4Tb8Yd3", b"p@$$", b"-w0r", b"kq7Rz2Vx9", b"LmWp4", b" ", b"\x00", b"%", b"%2", b"%70", b"\xef\xbd\x8b", b"\xf0\x9f", b"\xc2", b"\"", b"[", b"ghp_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g", b"eyJ", b"-----BEGIN ", b"PRIVATE KEY-----", b"basic ", b"eDpw", b"eJw", b"H4sI", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"&#x70;", b"\\u0070", b"====", b"\n\n", b"................................................................"];
    let s1 = carboy_core::secret::Secret::new("kq7Rz2Vx9LmWp4Tb8Yd3".to_owned());
    let s2 = carboy_core::secret::Secret::new("p@$$-w0rd!".to_owned());
    let s3 = carboy_core::secret::Secret::new("--==--Zz1Yy2Xx3Ww4Vv5--==--".to_owned());
    let n = |t: &str| carboy_core::ids::SecretName::parse(t).unwrap();
    let d = Arc::new(Detectors::builder([1; 32]).known_secret(&n("A_KEY"), &s1).known_secret(&n("PIN"), &s2).known_secret(&n("C"), &s3).build().unwrap());
    let start = Instant::now(); let mut k = 0;
    while start.elapsed() < Duration::from_secs(20) {
        let mut t = Vec::new();
        for _ in 0..rng(&mut x) % 40 { t.extend_from_slice(alphabet[(rng(&mut x) % alphabet.len() as u64) as usize]); }
        for mode in [Mode::Block, Mode::Redact] {
            let all = vec![Detector::TokenPatterns, Detector::KnownSecrets];
            d.scan_text(&t, &all, Location::RequestHeader);
            d.redact(&t, &all, Location::RequestHeader);
            let mut s = StreamScanner::new(d.clone(), ScanPlan { detectors: all, mode, location: Location::ResponseBody });
            let mut out = Vec::new(); let mut rest = &t[..]; let mut ok = true;
            while !rest.is_empty() { let n = (1 + rng(&mut x) as usize % 30).min(rest.len()); if s.push(&rest[..n], &mut out).is_err() { ok = false; break; } rest = &rest[n..]; if rng(&mut x) % 3 == 0 { s.release(&mut out); assert_eq!(s.releasable(), 0); } assert!(out.len() + s.held() == t.len() - rest.len()); }
            if ok && s.finish(&mut out).is_ok() { assert_eq!(out.len(), t.len());
                if mode == Mode::Redact { for p in ["kq7Rz2Vx9LmWp4Tb8Yd3", "p@$$-w0rd!"] { assert!(memchr_find(&out, p.as_bytes()).is_none(), "{:?}", String::from_utf8_lossy(&t)); } } }
            k += 1;
        }
    }
    println!("{k} texts");
}
fn memchr_find(h: &[u8], n: &[u8]) -> Option<usize> { h.windows(n.len()).position(|w| w == n) }

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood() {
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![route(HOST)]).await;
    let mut c = bench.client(&["h2"]).await;
    c.get("/").await;
    let t = Instant::now();
    let mut n = 0;
    // rapid reset: start and drop
    while t.elapsed() < Duration::from_secs(3) {
        let Client::H2(s) = &mut c else { panic!() };
        let mut futs = Vec::new();
        for _ in 0..50 { futs.push(s.send_request(http::Request::get(format!("https://{HOST}/x")).body(full("")).unwrap())); }
        for f in futs { let _ = tokio::time::timeout(Duration::from_micros(1), f).await; n += 1; }
        if s.is_closed() { println!("closed after {n}"); break; }
    }
    println!("rapid reset: {n} requests, {} events, stats {:?}", bench.log.events().len(), bench.gateway.stats().requests);
    let mut c = bench.client(&["h2"]).await;
    let t = Instant::now(); let mut n = 0; let before = bench.log.events().len();
    while t.elapsed() < Duration::from_secs(2) { let r = c.request(Method::GET, "/%00"); let Client::H2(s) = &mut c else { panic!() }; let r = r.body(full("")).unwrap(); let f: Vec<_> = (0..20).map(|_| s.send_request(http::Request::get(format!("https://{HOST}/%00{}", "a".repeat(2000))).body(full("")).unwrap())).collect(); drop(r); for x in f { let _ = x.await; n += 1; } }
    println!("refused: {n} in 2s, events {}", bench.log.events().len() - before);
    let e = bench.log.events(); let e = e.last().unwrap(); println!("{e:?}");
    let _ = GatewayLimits::default();
}
