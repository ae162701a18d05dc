//! The page in a real browser: what people do with a keyboard, a small screen, a bad network and two tabs.

mod cdp;
mod embedding;
mod looks;
mod network;
pub mod talk;

use std::path::PathBuf;

use cdp::{Browser, Page};

use super::needs;
use super::world::World;

/// A browser, unless this machine has none.
async fn browser(test: &str) -> Option<Browser> {
    if needs::program(&format!("browser-{test}"), &["chromium", "--version"]) {
        Some(Browser::start().await)
    } else {
        None
    }
}

fn url(world: &World) -> String {
    format!("http://127.0.0.1:{}/", world.address.port())
}

/// Types a message and sends it by the keyboard.
async fn send(page: &Page<'_>, message: &str) {
    page.eval("document.getElementById('message').focus()").await;
    page.type_in(message).await;
    page.key("Enter", 0).await;
}

/// Waits until the last reply is this.
async fn replied(page: &Page<'_>, text: &str) {
    let wanted = serde_json::to_string(text).unwrap();
    page.until(&format!("[...document.querySelectorAll('.agent:not(.busy) .text')].at(-1)?.textContent === {wanted}"))
        .await;
    page.until("document.getElementById('stop').hidden").await;
}

/// How many messages of a person the page shows.
async fn persons(page: &Page<'_>) -> u64 {
    page.eval("document.querySelectorAll('.person').length").await.as_u64().unwrap()
}

/// Where pictures of the documentation are kept, when they are to be made anew.
fn picture(name: &str) -> Option<PathBuf> {
    std::env::var_os("CARBOY_PICTURES").map(|dir| PathBuf::from(dir).join(name))
}
