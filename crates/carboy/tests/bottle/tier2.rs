//! Bottles without nf_tables (tier T2): ports 53, 80, 443 and those that routes name are captured, and the kernel has
//! no way for any other packet.

use carboy_sim::probe::Order;

use crate::world::{Person, REAL_KEY, World, reason};
use crate::{Case, case, case_with};

const ROUTES: &str = "\
egress:
  routes:
    - host: api.anthropic.com
      auth_scheme: Bearer
      token_env: ANTHROPIC_API_KEY
      meter: anthropic
    - host: notes.example
      ports: [443, 8443]
    - host: plain.example
      ports: [80]
";

pub fn cases() -> Vec<Case> {
    vec![
        case_with("T2: curl is captured on 443, 80 and a route's own port", &["curl"], curl),
        case("T2 B3 B5 B28 B32: what no route allows is refused, and what is not captured goes nowhere", refused),
    ]
}

fn world(person: Person) -> World {
    let world = World::new(person);
    world.settings("capture: force-t2\n");
    world.bottle(ROUTES);
    world
}

fn curl(person: Person) {
    let world = world(person);
    let call = r#"{"model":"m","max_tokens":64,"messages":[{"role":"user","content":"hi"}]}"#;
    let script = format!(
        "curl -sS --fail -H \"x-api-key: $ANTHROPIC_API_KEY\" -H 'anthropic-version: 2023-06-01' -d '{call}' \
           https://api.anthropic.com/v1/messages -o /dev/null -w '%{{http_code}} ' && \
         for url in https://notes.example https://notes.example:8443 http://plain.example; do \
         curl -sS --fail -o /dev/null -w '%{{http_code}} ' $url/page/clean; done"
    );
    let ran = world.sh(&script).expect_code(0);
    assert_eq!(ran.stdout, "200 200 200 200 ", "{}", ran.stderr);
    assert_eq!(ran.summary["tier"], "T2");
    assert_eq!(world.provider.received()[0].header("x-api-key"), Some(REAL_KEY));
}

fn refused(person: Person) {
    let world = world(person);
    let mut agent = world.agent();
    for address in ["169.254.169.254", "127.0.0.2", "192.0.2.7"] {
        let report = agent.http("GET", &format!("http://{address}/"), &[], b"");
        // An address of the bottle's own loopback has nobody behind it.
        assert!(reason(&report) == Some("address_not_allowed") || report.error.is_some(), "{address}: {report:?}");
    }
    assert!(agent.http("GET", "https://collector.example/", &[], b"").error.is_some());
    let order = Order::Dns { name: "secret.collector.example".into(), server: "192.0.2.53:53".parse().unwrap() };
    let answered = agent.order(&order);
    assert!(answered.answers.unwrap_or(0) == 0, "{answered:?}");
    // Ports that nobody captures are refused by the kernel at once, whatever the address.
    for address in ["192.0.2.7:5432", "169.254.169.254:8080", "192.0.2.7:22"] {
        let started = std::time::Instant::now();
        let report = agent.order(&Order::Tcp { address: address.parse().unwrap(), send: "hello".into() });
        assert!(report.error.is_some() && report.body.is_empty(), "{address}: {report:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(2), "{address}: {:?}", started.elapsed());
    }
    let outside = world.canary.tcp_addr;
    let report = agent.order(&Order::Tcp { address: outside, send: "hello".into() });
    assert!(report.error.is_some(), "{report:?}");
    let ran = agent.finish().expect_code(0);
    assert!(ran.refused("address_not_allowed") >= 2 && ran.refused("name_not_allowed") >= 1, "{:?}", ran.summary);
    assert_eq!(world.provider.requests(), 0);
    world.assert_nothing_escaped();
}
