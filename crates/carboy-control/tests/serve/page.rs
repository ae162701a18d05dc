//! The page's own text: nothing inline, nothing of others, nothing that makes markup of words.

use super::http::get;
use super::world::World;

async fn assets(world: &World) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for name in ["index.html", "app.js", "wire.js", "view.js", "theme.js", "style.css", "icon.svg"] {
        let answer = get(&format!("/static/{name}")).send(world.address).await;
        assert_eq!(answer.status, 200, "{name}");
        all.push((name.to_owned(), answer.body));
    }
    all
}

#[tokio::test]
async fn g50_no_word_becomes_markup_and_no_text_becomes_code() {
    let world = World::plain().await;
    for (name, text) in assets(&world).await {
        for door in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "createContextualFragment",
            "setHTML",
            "srcdoc",
            "eval(",
            "new Function",
            "javascript:",
            "import(",
        ] {
            assert!(!text.contains(door), "{name} has {door}");
        }
    }
}

#[tokio::test]
async fn the_page_has_nothing_inline_and_asks_nobody_else() {
    let world = World::plain().await;
    for (name, text) in assets(&world).await {
        let own = text.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !own.contains("http://") && !own.contains("https://") && !own.contains("\"//"),
            "{name} names another host"
        );
        if name == "index.html" {
            for inline in ["<style", " style=", " onclick", " onload", "<script>"] {
                assert!(!text.contains(inline), "{inline}");
            }
        }
        if name == "style.css" {
            assert!(!text.contains("url(") && !text.contains("@import"));
        }
    }
}
