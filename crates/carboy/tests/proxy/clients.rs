//! Real clients, told of the proxy as each wants to be told: they get the provider's own answer while they hold a fake key, and
//! the provider sees the real one.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::desk::{Desk, KEY};
use crate::world::{CALL, FAKE, GREETING, Proxy, beside, client, greeting, text};

/// Every call arrived with the real key, and no fake at all.
fn assert_arrived(desk: &Desk, calls: usize) {
    let all = desk.provider().received();
    assert!(!all.iter().any(|request| request.contains(FAKE.as_bytes())), "a fake arrived: {all:?}");
    let models: Vec<_> = all.iter().filter(|request| request.path.starts_with("/v1/messages")).collect();
    assert_eq!(models.len(), calls, "{all:?}");
    for call in models {
        assert_eq!(call.header("x-api-key"), Some(KEY), "{call:?}");
        assert!(call.header("proxy-authorization").is_none(), "{call:?}");
    }
}

#[test]
fn b20_curl_goes_through_connect_and_absolute_form_in_each_way_that_it_can_be_told_a_proxy() {
    let desk = greeting();
    let proxy = Proxy::start(&desk, &[]);
    // By the variables.
    let answer = proxy.calls();
    assert!(answer.contains(GREETING) && answer.ends_with(" 200"), "{answer}");
    // By flags, the password apart, over HTTP/2 inside.
    let user = format!("anybody:{}", proxy.password());
    let (url, ca) = (format!("http://{}", proxy.address()), proxy.ca());
    let flags = ["-x", &url, "--proxy-user", &user, "--cacert", ca.to_str().unwrap(), "--http2"];
    let key = format!("x-api-key: {}", proxy.told["variables"]["ANTHROPIC_API_KEY"].as_str().unwrap());
    let fields =
        ["-H", &key, "-H", "anthropic-version: 2023-06-01", "-H", "content-type: application/json", "-d", CALL];
    let more = ["-w", " over %{http_version}", "https://api.anthropic.com/v1/messages"];
    let output = proxy.curl(&[&flags[..], &fields, &more].concat());
    assert!(text(&output.stdout).contains(GREETING) && text(&output.stdout).ends_with(" over 2"), "{output:?}");
    // Plain HTTP in absolute form.
    let output = proxy.curl(&["http://plain.example/page/clean"]);
    assert!(text(&output.stdout).contains("Growing tomatoes"), "{output:?}");
    // What no route names is refused with words, in both forms.
    for url in ["http://denied.example/", "https://denied.example/"] {
        let output = proxy.curl(&[url]);
        assert!(text(&output.stdout).contains("host_not_allowed"), "{output:?}");
    }
    assert_eq!(proxy.refused("host_not_allowed").len(), 2);
    assert_arrived(&desk, 2);
}

#[test]
fn b20_a_unix_socket_takes_absolute_form_from_curl_and_a_tunnel_from_whoever_can_open_one() {
    let desk = greeting();
    let path = desk.path("work/proxy.sock");
    let mut proxy = Proxy::start(&desk, &["--socket", "proxy.sock"]);
    assert_eq!(proxy.told["socket"].as_str(), path.to_str());
    assert_eq!(proxy.told["variables"]["CARBOY_PROXY_SOCKET"].as_str(), path.to_str());
    assert!(proxy.told["proxy"].is_null() && proxy.told["variables"]["HTTPS_PROXY"].is_null());
    let url = "http://plain.example/page/clean";
    let output = proxy.curl(&["--unix-socket", path.to_str().unwrap(), "--request-target", url, url]);
    assert!(text(&output.stdout).contains("Growing tomatoes"), "{output:?}");
    // Python, with the standard library alone.
    let program = format!(
        "import http.client, json, os, socket, ssl\n\
         s = socket.socket(socket.AF_UNIX); s.connect(os.environ['CARBOY_PROXY_SOCKET'])\n\
         s.sendall(b'CONNECT api.anthropic.com:443 HTTP/1.1\\r\\nHost: api.anthropic.com:443\\r\\n\\r\\n')\n\
         assert s.recv(4096).startswith(b'HTTP/1.1 200')\n\
         c = http.client.HTTPSConnection('api.anthropic.com')\n\
         c.sock = ssl.create_default_context().wrap_socket(s, server_hostname='api.anthropic.com')\n\
         c.request('POST', '/v1/messages', '{CALL}', {{'x-api-key': os.environ['ANTHROPIC_API_KEY'], \
         'anthropic-version': '2023-06-01'}})\n\
         print(json.load(c.getresponse())['content'][0]['text'])"
    );
    let output = proxy.client("python3", &["-c", &program]).output().unwrap();
    assert!(text(&output.stdout).starts_with(GREETING), "{output:?}");
    assert_arrived(&desk, 1);
    // A request that names no host in its target is not a proxy's.
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: plain.example\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("protocol_refused"), "{answer}");
    proxy.signal(rustix::process::Signal::TERM);
    assert_eq!(proxy.ended(), 0);
    assert!(!path.exists());
    proxy.assert_gone();
}

#[test]
fn python_requests_and_httpx_find_it_by_their_variables() {
    let Some(python) = client("venv/bin/python") else { return };
    let desk = greeting();
    let proxy = Proxy::start(&desk, &[]);
    let program = format!(
        "import os, httpx, requests\n\
         h = {{'x-api-key': os.environ['ANTHROPIC_API_KEY'], 'anthropic-version': '2023-06-01'}}\n\
         u = 'https://api.anthropic.com/v1/messages'\n\
         print(requests.post(u, headers=h, data='{CALL}').json()['content'][0]['text'])\n\
         print(requests.get('http://plain.example/page/clean').text.count('tomatoes') > 0)\n\
         for h2 in (False, True):\n\
         \x20   with httpx.Client(http2=h2) as c:\n\
         \x20       r = c.post(u, headers=h, content='{CALL}')\n\
         \x20       print(r.http_version, r.json()['content'][0]['text'])\n\
         print(requests.get('https://denied.example/').json()['error']['code'])"
    );
    let output = proxy.client(&python, &["-c", &program]).output().unwrap();
    let shown = text(&output.stdout);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 5, "{output:?}");
    assert!(lines[0].starts_with(GREETING) && lines[1] == "True" && lines[4] == "host_not_allowed", "{shown}");
    assert!(lines[2].starts_with("HTTP/1.1 Hello") && lines[3].starts_with("HTTP/2 Hello"), "{shown}");
    assert_arrived(&desk, 3);
}

#[test]
fn nodes_undici_goes_through_a_proxy_agent_with_the_password() {
    let Some(modules) = client("node_modules/undici") else { return };
    let desk = greeting();
    let proxy = Proxy::start(&desk, &[]);
    let program = format!(
        "const {{ProxyAgent, EnvHttpProxyAgent, fetch}} = require('{modules}');\n\
         const headers = {{'x-api-key': process.env.ANTHROPIC_API_KEY, 'anthropic-version': '2023-06-01'}};\n\
         const ask = async dispatcher => {{\n\
         \x20 const r = await fetch('https://api.anthropic.com/v1/messages', \
         {{method: 'POST', headers, body: '{CALL}', dispatcher}});\n\
         \x20 console.log((await r.json()).content[0].text);\n\
         }};\n\
         const address = new URL(process.env.HTTPS_PROXY);\n\
         const token = 'Basic ' + Buffer.from(`${{address.username}}:${{address.password}}`).toString('base64');\n\
         (async () => {{\n\
         \x20 await ask(new ProxyAgent({{uri: `http://${{address.host}}`, token}}));\n\
         \x20 await ask(new EnvHttpProxyAgent());\n\
         \x20 await ask(new ProxyAgent({{uri: `http://${{address.host}}`}})).catch(e => \
         console.log('refused', String(e.cause || e)));\n\
         }})();"
    );
    let output = proxy.client("node", &["-e", &program]).output().unwrap();
    let shown = text(&output.stdout);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.len() == 3 && lines[..2].iter().all(|line| line.starts_with(GREETING)), "{output:?}");
    // Without the password: how undici says it is its own business, the log is plain.
    assert!(lines[2].starts_with("refused"), "{shown}");
    assert_eq!(proxy.refused("proxy_unauthorized").len(), 1);
    assert_arrived(&desk, 2);
}

#[test]
fn claude_beside_it_completes_a_prompt_with_the_fake_key() {
    let Some(claude) = client("bin/claude") else { return };
    let desk = greeting();
    let output = beside(&desk, &[], &[&claude, "-p", "hi", "--output-format", "json"]);
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["result"].as_str().unwrap().starts_with(GREETING), "{answer}");
    let all = desk.provider().received();
    let calls = all.iter().filter(|request| request.path.starts_with("/v1/messages"));
    assert!(calls.clone().count() > 0 && calls.clone().all(|call| call.header("x-api-key") == Some(KEY)), "{all:?}");
}
