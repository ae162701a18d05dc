//! `publish`, `forward`, `workspace`, `image`, `backend`, and `notify` and JSON secrets of the settings.

mod support;

use std::path::PathBuf;

use carboy_core::ids::SecretName;
use carboy_core::plan::{Forward, Image, Publish, Service};
use carboy_manifest::origin::Origin;
use carboy_manifest::{Backend, Manifest, Notify, SecretFrom, Webhook, Workspace};
use support::{bottle, files, findings, request};

fn one(yaml: &str) -> String {
    let found = findings(yaml);
    assert_eq!(found.len(), 1, "{yaml}: {found:#?}");
    found[0].clone()
}

#[test]
fn the_keys_are_read_with_their_defaults() {
    // M34
    let plain = bottle("").unwrap();
    assert_eq!((plain.workspace, plain.backend, plain.image), (Workspace::Direct, Backend::Namespaces, None));
    assert!(plain.publish.is_empty() && plain.forward.is_empty());
    let said = bottle(
        "publish: [3000, \"8080:3001\", 127.0.0.2:8080:3002]\nforward: {5432: \"127.0.0.1:5432\", 6379: ~/db/redis.sock}\n\
         workspace: overlay\nbackend: namespaces\nimage: ~/images/debian",
    )
    .unwrap();
    let published = |listen: &str, inside| Publish { listen: listen.parse().unwrap(), inside };
    assert_eq!(
        said.publish,
        [published("127.0.0.1:3000", 3000), published("127.0.0.1:8080", 3001), published("127.0.0.2:8080", 3002)]
    );
    assert_eq!(
        said.forward,
        [
            Forward { inside: 5432, to: Service::Tcp("127.0.0.1:5432".parse().unwrap()) },
            Forward { inside: 6379, to: Service::Unix("/home/u/db/redis.sock".into()) },
        ]
    );
    assert_eq!((said.workspace, said.backend), (Workspace::Overlay, Backend::Namespaces));
    assert_eq!(said.image, Some(Image::Directory("/home/u/images/debian".into())));
    assert!(said.warnings.is_empty());
}

#[test]
fn an_image_is_a_path_or_says_its_kind() {
    // E5
    for (yaml, want) in [
        ("image: /i/x.tar.zst", Image::Archive("/i/x.tar.zst".into())),
        ("image: ~/app/Dockerfile", Image::Dockerfile("/home/u/app/Dockerfile".into())),
        ("image: {directory: /i/x.tar}", Image::Directory("/i/x.tar".into())),
        ("image: {archive: /i/x}", Image::Archive("/i/x".into())),
        ("image: {dockerfile: /i/build}", Image::Dockerfile("/i/build".into())),
    ] {
        assert_eq!(bottle(yaml).unwrap().image, Some(want), "{yaml}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_to_write() {
    for (yaml, words) in [
        ("publish: 3000", "wrong-type 2:10 `publish` of bottle `dev` is the number 3000, not a list"),
        ("publish: [0]", "bad-value 2:11 an entry of `publish` of bottle `dev` is 0"),
        ("publish: [65536]", "is 65536"),
        ("publish: [\"host:80:80\"]", "is `host:80:80`"),
        (
            "publish: [80, \"127.0.0.1:80:81\"]",
            "bad-value 2:15 `publish` of bottle `dev` listens on 127.0.0.1:80 twice; first on line 2",
        ),
        (
            "publish: [\"0.0.0.0:80:80\"]",
            "listen-wide 2:11 `publish` of bottle `dev` listens on 0.0.0.0:80: other machines reach",
        ),
        ("publish: [80]\nforward: {80: \"127.0.0.1:81\"}", "port 80 of bottle `dev` is both published and forwarded"),
        ("forward: {0: \"127.0.0.1:80\"}", "bad-value 2:11 `forward` of bottle `dev` has the port `0`"),
        ("forward: {5432: db.example}", "bad-value 2:17 `forward.5432` of bottle `dev` is `db.example`"),
        ("forward: {5432: \"localhost:5432\"}", "is `localhost:5432`"),
        ("forward: {5432: \"169.254.169.254:80\"}", "socket-refused 2:17"),
        (
            "forward: {1: /var/run/docker.sock}",
            "socket-refused 2:14 `forward.1` of bottle `dev` is refused: whoever speaks to Docker",
        ),
        ("forward: {1: /run/user/1000/bus}", "socket-refused"),
        ("forward: {1: ~/.carboy/run/dev.sock}", "socket-refused"),
        ("forward: {1: ~/.gnupg/S.gpg-agent}", "socket-refused"),
        ("workspace: copy", "bad-value 2:12 `workspace` of bottle `dev` is `copy`"),
        ("backend: docker", "not-available 2:10 `backend: docker` of bottle `dev`"),
        ("backend: wasm", "bad-value 2:10 `backend` of bottle `dev` is `wasm`"),
        ("image: debian", "bad-value 2:8 `image` of bottle `dev` is `debian`"),
        ("image: {}", "`image` of bottle `dev` says 0 things"),
        ("image: {directory: /a, archive: /b}", "says 2 things, not one"),
        ("image: /", "bind-refused 2:8 `image` of bottle `dev` is refused"),
        ("image: ~/Dockerfile", "bind-refused 2:8"),
        ("image: ~/.ssh/x.tar", "bind-refused 2:8"),
    ] {
        let found = one(yaml);
        assert!(found.contains(words), "{yaml}: {found}");
    }
    let fix = |yaml: &str| bottle(yaml).err().unwrap().iter().next().unwrap().fix.clone();
    assert!(fix("forward: {5432: db.example}").starts_with("write an IP address or the path of a Unix socket"));
    assert!(fix("image: debian:12").contains("docker save"));
}

#[test]
fn each_of_them_shows_where_it_was_said() {
    // M34
    let home = files(&[
        ("bottles/base.md", "---\npublish: [80]\nimage: /i/a\n---\n"),
        ("bottles/dev.md", "---\nextends: base\npublish: [81]\nforward: {1: \"[::1]:1\"}\n---\n"),
        ("settings.yml", "notify: {desktop: true}\n"),
    ]);
    let loaded = Manifest::load(&home, &request(None, &["dev"])).unwrap();
    let view = serde_json::to_value(loaded.view()).unwrap();
    let at = |pointer: &str| view.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {view:#}")).clone();
    assert_eq!(at("/publish/0/listen"), "127.0.0.1:80");
    assert_eq!(at("/publish/0/origin/file"), "/home/u/.carboy/bottles/base.md");
    assert_eq!((at("/publish/1/inside"), at("/publish/1/origin/line")), (81.into(), 3.into()));
    assert_eq!((at("/forward/0/to"), at("/forward/0/origin/line")), ("[::1]:1".into(), 4.into()));
    assert_eq!((at("/image/value/directory"), at("/image/origin/line")), ("/i/a".into(), 3.into()));
    assert_eq!((at("/backend/value"), at("/backend/origin/from")), ("namespaces".into(), "default".into()));
    assert_eq!((at("/notify/value/desktop"), at("/notify/origin/line")), (true.into(), 1.into()));
}

fn settings(yaml: &str) -> Result<carboy_manifest::Settings, carboy_manifest::Diagnostics> {
    let home = files(&[("bottles/dev.md", "---\n---\n"), ("settings.yml", yaml)]);
    Manifest::load(&home, &request(None, &["dev"])).map(|loaded| loaded.settings)
}

#[test]
fn a_secret_may_be_one_text_of_a_json_file() {
    let name = SecretName::parse("K").unwrap();
    let read = settings("secrets: {K: {file: ~/auth.json, pointer: /tokens/access_token}}").unwrap();
    let path = PathBuf::from("/home/u/auth.json");
    assert_eq!(read.secret(&name), SecretFrom::JsonFile { path, pointer: "/tokens/access_token".into() });
    for (yaml, words) in [
        ("secrets: {K: {pointer: /a}}", "has no `file`"),
        ("secrets: {K: {file: /a, pointer: tokens}}", "`pointer` of secret `K` of settings.yml is `tokens`"),
        ("secrets: {K: {file: /a, pointer: \"/a~2\"}}", "JSON pointer"),
        ("secrets: {K: {file: /a, pointer: \"\"}}", "JSON pointer"),
        ("secrets: {K: {env: A, pointer: /a}}", "has 2 sources, not one"),
        ("secrets: {K: {file: /a, pointer: /a, env: A}}", "has 3 sources, not one"),
    ] {
        let error = settings(yaml).err().unwrap().to_string();
        assert!(error.contains(words), "{yaml}: {error}");
    }
}

#[test]
fn the_operator_hears_the_bell_unless_told_otherwise_and_a_webhook_is_not_repeated() {
    assert_eq!(settings("").unwrap().notify.value, Notify { bell: true, desktop: false, webhook: None });
    let read = settings(
        "notify: {bell: false, desktop: true, webhook: {url: \"https://h.example:8443/T0/secret\", token_env: HOOK}}",
    )
    .unwrap()
    .notify;
    let token = Some(SecretName::parse("HOOK").unwrap());
    let webhook = Some(Webhook { url: "https://h.example:8443/T0/secret".into(), token });
    assert_eq!(read.value, Notify { bell: false, desktop: true, webhook });
    assert!(matches!(read.origin, Origin::File { line: 1, .. }));
    let shown = serde_json::to_string(&read).unwrap();
    assert!(shown.contains("https://h.example:8443") && !shown.contains("secret"), "{shown}");
    for (yaml, words) in [
        ("notify: true", "not a map"),
        ("notify: {bell: loud}", "not a boolean"),
        ("notify: {webhook: {}}", "has no `url`"),
        ("notify: {webhook: {url: \"http://h.example/secret\"}}", "is no address that is posted to"),
        ("notify: {mail: x}", "unknown key: `mail`"),
    ] {
        let error = settings(yaml).err().unwrap().to_string();
        assert!(error.contains(words) && !error.contains("/secret"), "{yaml}: {error}");
    }
}
