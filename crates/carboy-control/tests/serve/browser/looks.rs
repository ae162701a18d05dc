//! How it looks: small screens, large type, dark rooms, long conversations; and what axe says of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use carboy_core::chat::{ChatLimits, ChatSpec};
use serde_json::json;

use super::super::http::{chat, get};
use super::super::needs;
use super::super::world::{Made, Play, World, spec};
use super::cdp::{Page, axe};
use super::talk::with_card;
use super::{browser, picture, replied, send, url};

/// Nothing is wider than the window.
async fn fits(page: &Page<'_>, what: &str) {
    let wide = page.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
    assert_eq!(wide, 0, "{what}: wider than the window");
    let out = "[...document.querySelectorAll('button, a, textarea, .text')].filter((e) => !e.closest('.skip, dialog:not([open])') \
               && e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML)";
    assert_eq!(page.eval(out).await, json!([]), "{what}");
}

#[tokio::test]
async fn it_fits_320_pixels_and_400_percent() {
    let Some(browser) = browser("small").await else { return };
    let (world, _) = with_card().await;
    let page = browser.page(&url(&world)).await;
    send(&page, &"averylongwordwithoutanyblank".repeat(8)).await;
    replied(&page, "It is done.").await;
    send(&page, "return it").await;
    page.until("document.querySelector('.card')").await;
    page.until("document.getElementById('stop').hidden").await;
    // 400 % of 1280 by 1024 is what 320 by 256 shows.
    for (width, height, scale) in [(320, 640, 1.0), (320, 256, 4.0), (1280, 800, 1.0)] {
        page.viewport(width, height, scale).await;
        fits(&page, &format!("{width} by {height}")).await;
        page.eval("document.getElementById('send').scrollIntoView()").await;
        let reached = page.eval("document.getElementById('send').getBoundingClientRect().top < innerHeight").await;
        assert_eq!(reached, true, "{width} by {height}: the button can be reached");
    }
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn light_and_dark_have_their_palettes() {
    let Some(browser) = browser("schemes").await else { return };
    let world = World::plain().await;
    let page = browser.page(&url(&world)).await;
    let background = "getComputedStyle(document.body).backgroundColor";
    page.scheme("light").await;
    assert_eq!(page.text(background).await, "rgb(245, 243, 238)");
    page.scheme("dark").await;
    assert_eq!(page.text(background).await, "rgb(27, 26, 24)");
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn five_hundred_messages_stay_fast() {
    let Some(browser) = browser("many").await else { return };
    let limits = ChatLimits { turns_max: 1_000, ..spec().limits };
    let world = World::made(Made { spec: ChatSpec { limits, ..spec() }, ..Made::default() }).await;
    let page = browser.page(&url(&world)).await;
    // As many as the server keeps, and then as many as make it 500.
    let fill = "(async () => { for (let n = 0; n < 200; n += 1) await (await fetch('../api/chat', {method: 'POST', \
                headers: {'content-type': 'application/json'}, body: JSON.stringify({message: `message ${n} ` + 'word '.repeat(20)})})).json(); })()";
    page.eval(fill).await;
    let began = Instant::now();
    page.go(&url(&world)).await;
    page.until("document.querySelectorAll('#log .message').length >= 400").await;
    let loaded = began.elapsed();
    for number in 0..50 {
        send(&page, &format!("live {number}")).await;
        replied(&page, &format!("You said: live {number}.")).await;
    }
    assert!(page.eval("document.querySelectorAll('#log .message').length").await.as_u64().unwrap() >= 500);
    // From the key to the painted line.
    let typed = page.eval("(async () => { const began = performance.now(); document.getElementById('message').value = 'one more'; \
        document.getElementById('send').click(); await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r))); \
        return performance.now() - began; })()").await.as_f64().unwrap();
    replied(&page, "You said: one more.").await;
    println!("500 messages: loaded in {loaded:?}, one more is painted after {typed:.0} ms");
    assert!(loaded.as_secs() < 8 && typed < 1_000.0, "loaded in {loaded:?}, painted after {typed} ms");
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn axe_finds_nothing_in_any_state_light_dark_or_small() {
    let axe = axe();
    needs::note("browser-axe", axe.as_ref().err().cloned());
    let Ok(axe) = axe else { return };
    let Some(browser) = browser("axe-run").await else { return };
    let (world, done) = with_card().await;
    let page = browser.page(&url(&world)).await;
    send(&page, "hello").await;
    replied(&page, "It is done.").await;
    send(&page, "return it").await;
    page.until("document.querySelector('.card') && document.getElementById('stop').hidden").await;
    page.eval("document.querySelector('.feedback .no').click()").await;
    let states = [
        ("a card that waits", "0"),
        ("a card that was clicked", "document.querySelector('.card .confirm').click()"),
        ("a notice", "dispatchEvent(new Event('offline'))"),
        ("a question", "document.getElementById('forget').click()"),
    ];
    for (state, act) in states {
        page.eval(act).await;
        page.until("document.getElementById('stop').hidden").await;
        for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 320), ("dark", 320)] {
            page.scheme(scheme).await;
            page.viewport(width, 800, 1.0).await;
            assert_eq!(page.violations(&axe).await, json!([]), "{state}, {scheme}, {width}");
        }
    }
    assert_eq!(done.load(Ordering::SeqCst), 1);
    browser.quiet(&[]).await;
}

#[tokio::test]
async fn a_conversation_looks_as_the_documentation_shows_it() {
    let Some(browser) = browser("pictures").await else { return };
    let script = Arc::new(|said: &str| match said {
        "Where is my order BK-1001?" => {
            Play::say("Order BK-1001 was delivered on 3 January. Is there anything else about it?")
        }
        _ => Play::say("You have 30 days from delivery to send a book back."),
    });
    let world = World::made(Made { script, offline: Some("offline model".into()), ..Made::default() }).await;
    let page = browser.page(&url(&world)).await;
    page.viewport(900, 620, 1.0).await;
    send(&page, "Where is my order BK-1001?").await;
    page.until("document.querySelectorAll('.feedback').length === 1 && document.getElementById('stop').hidden").await;
    send(&page, "Can I still send it back?").await;
    page.until("document.querySelectorAll('.feedback').length === 2").await;
    assert!(page.text("document.getElementById('log').innerText").await.contains("Bookly (offline model)"));
    for scheme in ["light", "dark"] {
        page.scheme(scheme).await;
        let shot = page.screenshot().await;
        assert!(shot.starts_with(b"\x89PNG") && shot.len() > 10_000);
        if let Some(file) = picture(&format!("chat-{scheme}.png")) {
            std::fs::write(file, shot).unwrap();
        }
    }
    // What the page shows is what is kept.
    let cookies = page.call("Network.getCookies", json!({})).await;
    let cookie = &cookies["cookies"][0];
    assert_eq!((&cookie["httpOnly"], &cookie["sameSite"]), (&json!(true), &json!("Lax")));
    let value = format!("{}={}", cookie["name"].as_str().unwrap(), cookie["value"].as_str().unwrap());
    let file = get("/api/transcript?download").with("cookie", &value).send(world.address).await;
    assert!(file.body.contains("Order BK-1001 was delivered on 3 January."));
    assert_eq!(chat("x").send(world.address).await.status, 200);
    browser.quiet(&[]).await;
}
