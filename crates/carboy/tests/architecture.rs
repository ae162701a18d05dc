//! `/architecture` of an agent of a user's: shown where its file says so and nowhere else, in a real browser.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

#[path = "../../carboy-control/tests/serve/browser/cdp.rs"]
#[allow(dead_code)]
mod cdp;
#[path = "support/desk.rs"]
mod desk;
#[path = "../../carboy-control/tests/serve/needs.rs"]
mod needs;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use cdp::Browser;
use desk::Desk;
use serde_json::{Value, json};

const AGENT: &str = r#"---
kind: chat
title: "The <b>shop</b>"
model: claude-sonnet-4-5
tools: [calculator, save_note]
confirm: [save_note]
reply: {ids: ["BK-[0-9]{4}"], plain_text: true}
budget: {claude: 500k}
window: {calendar: day}
MORE
---
<identity>
You answer for a small shop. Its secret sauce is thyme.
</identity>
"#;

/// `carboy serve shop`, until it is dropped.
struct Serving {
    child: Child,
    address: String,
    /// What it said before it served.
    said: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(desk: &Desk, more: &str) -> Serving {
    desk.write("home/agents/shop.md", &AGENT.replace("MORE\n", more));
    let mut command = desk.carboy(&["serve", "shop", "--model", "offline", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = String::new();
    let address = lines.by_ref().find_map(|line| {
        said.push_str(&line);
        let (_, rest) = line.split_once("serves at http://")?;
        Some(rest.trim_end_matches('/').to_owned())
    });
    let address = address.unwrap_or_else(|| panic!("it does not serve: {said}"));
    let hint = lines.by_ref().find(|line| line.contains("to end it:")).unwrap();
    // What it says later is read too, so that it never waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    Serving { child, address, said: hint }
}

fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
}

#[test]
fn an_agents_file_is_shown_to_nobody_unless_it_says_so() {
    let desk = Desk::new();
    for more in ["", "serve: {architecture: false}\n"] {
        let serving = serve(&desk, more);
        let (status, text) = get(&serving.address, "/architecture");
        assert!(status == 404 && text.contains("no_architecture"), "{text}");
        assert!(text.contains("serve: {architecture: true}") && !text.contains("thyme"), "{text}");
        assert!(!serving.said.contains("/architecture"), "{}", serving.said);
        assert_eq!(get(&serving.address, "/architecture.css").0, 404);
    }
    let serving = serve(&desk, "serve: {architecture: true}\n");
    let (status, text) = get(&serving.address, "/architecture");
    assert!(status == 200 && text.contains("thyme") && serving.said.contains("/architecture"), "{text}");
}

#[test]
fn g48_the_page_of_a_users_agent_has_no_error_no_violation_and_no_link_that_leads_nowhere() {
    let axe = cdp::axe();
    needs::note("browser-architecture-axe", axe.as_ref().err().cloned());
    if !needs::program("browser-architecture", &["chromium", "--version"]) {
        return;
    }
    let desk = Desk::new();
    let serving = serve(&desk, "serve: {architecture: true}\n");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(looked_at(&serving.address, axe.ok()));
}

async fn looked_at(address: &str, axe: Option<String>) {
    let browser = Browser::start().await;
    let page = browser.page("about:blank").await;
    page.call("Page.navigate", json!({"url": format!("http://{address}/architecture")})).await;
    page.until("document.readyState === 'complete' && document.body?.textContent.includes('secret sauce is thyme')")
        .await;
    // Its words are words, and its stylesheet is there.
    assert_eq!(page.eval("[...document.querySelectorAll('h1 b, title b')].length").await, 0);
    assert!(page.eval("document.styleSheets.length").await.as_u64().unwrap() > 0);
    assert_ne!(page.text("getComputedStyle(document.body).backgroundColor").await, "rgba(0, 0, 0, 0)");
    // Every link and picture leads somewhere: to a place of the page, or to an address that is there.
    let lost = "(async () => { const lost = []; \
        for (const link of document.querySelectorAll('a[href]')) { \
          const to = new URL(link.href); \
          if (to.origin !== location.origin) { lost.push(link.href); continue; } \
          if (to.pathname !== location.pathname && !(await fetch(to)).ok) lost.push(link.href); \
          if (to.pathname === location.pathname && to.hash && !document.getElementById(decodeURIComponent(to.hash.slice(1)))) lost.push(link.href); } \
        for (const image of document.images) if (image.complete && image.naturalWidth === 0) lost.push(image.src); \
        return lost; })()";
    assert_eq!(page.eval(lost).await, json!([]));
    for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 320), ("dark", 320)] {
        page.scheme(scheme).await;
        page.viewport(width, 800, 1.0).await;
        if let Some(axe) = &axe {
            assert_eq!(page.violations(axe).await, json!([]), "{scheme}, {width}");
        }
        let wide = page.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
        assert_eq!(wide, Value::from(0), "{scheme}, {width}: wider than the window");
    }
    browser.quiet(&[]).await;
}
