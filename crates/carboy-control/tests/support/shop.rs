//! A shop with a chat agent: a home with one bottle, a provider on loopback, a working directory.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carboy_agent::{Asker, Principal, PrincipalKind, SessionId};
use carboy_control::chat::{ChatRequest, Conversations, Deployment, ModelMode};
use carboy_control::disk::DiskFiles;
use carboy_control::home::Home;
use carboy_control::host_programs::Program;
use carboy_control::supervisor::Keeping;
use carboy_control::vault::Lookup;
use carboy_core::audit::{ChainKey, Entry};
use carboy_core::chat::{
    BuiltInTool, ChatFormat, ChatLimits, ChatPrompt, ChatSpec, Identity, ModelChoice, ReplySpec, Screening, ToolSource,
};
use carboy_core::host::Host;
use carboy_core::ids::{AgentName, MeterName, SecretName};
use carboy_manifest::{Manifest, Places, Request};
use carboy_sim::{Config, Reply as Says, Running, Script, Simulator};
use carboy_store::audit::{Query, query};

pub const KEY: &str = "sk-ant-api03-real-0123456789abcdefghijklmnopqrstuvwxyz-REAL";
pub const KEY_NAME: &str = "ANTHROPIC_API_KEY";
pub const MODEL_HOST: &str = "api.anthropic.com";
/// Nothing of a test takes longer.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

pub struct Variables(BTreeMap<String, String>);

impl Lookup for Variables {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.0.get(name).map(OsString::from)
    }

    fn find(&self, name: &str) -> Result<Program, String> {
        Err(format!("{name} is not looked for in this test"))
    }

    fn command(&self, _: &[String], _: Duration) -> Result<Vec<u8>, String> {
        Err("no commands in this test".into())
    }

    fn fenced(&self, _: &[PathBuf]) -> Arc<dyn Lookup> {
        Arc::new(Variables(self.0.clone()))
    }
}

/// A home with one bottle, a provider, and a working directory.
pub struct Shop {
    pub dir: tempfile::TempDir,
    pub provider: Running,
}

impl Shop {
    pub async fn open(budget: &str) -> Shop {
        Shop::with(Script::default().on("slowly", Says::text("word ".repeat(4_000))), budget).await
    }

    /// A provider that says this to messages with that word in them.
    pub async fn scripted(word: &str, says: Says) -> Shop {
        Shop::with(Script::default().on(word, says), "").await
    }

    async fn with(script: Script, budget: &str) -> Shop {
        let script = script.on("", Says::text("We are open from nine to five."));
        let mut config =
            Config { anthropic_key: KEY.into(), names: vec![MODEL_HOST.into()], script, ..Config::default() };
        config.faults.pace = Duration::from_millis(1);
        let provider = Simulator::start(config).await.unwrap();
        let shop = Shop { dir: tempfile::tempdir().unwrap(), provider };
        let bottle = format!(
            "---\negress:\n  routes:\n    - host: {MODEL_HOST}\n      auth_scheme: Bearer\n      token_env: {KEY_NAME}\n      meter: anthropic\n{budget}---\nThe shop.\n"
        );
        shop.write("home/bottles/shop.md", &bottle);
        shop.write("home/provider.pem", shop.provider.ca_pem());
        let settings = format!(
            "upstreams:\n  {MODEL_HOST}: {{address: \"{}\", tls: true, ca: \"{}\"}}\n",
            shop.provider.tls_addr,
            shop.path("home/provider.pem").display()
        );
        shop.write("home/settings.yml", &settings);
        fs::create_dir_all(shop.path("work")).unwrap();
        shop
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        for private in ["home", "home/bottles"] {
            let _ = fs::set_permissions(self.path(private), fs::Permissions::from_mode(0o700));
        }
    }

    pub fn home(&self) -> Home {
        Home::open(&self.path("home"), None).unwrap()
    }

    pub fn request(&self, variables: &[(&str, &str)]) -> ChatRequest {
        let home = self.home();
        let places = Places { carboy_home: home.root().to_owned(), home: self.path("user"), cwd: self.path("work") };
        let wanted = Request { agent: None, bottles: vec!["shop".into()], places: places.clone() };
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ChatRequest {
            home,
            places: places.clone(),
            effective: Manifest::load(&DiskFiles, &wanted).unwrap(),
            spec: spec(),
            workdir: self.path("work"),
            lookup: Arc::new(Variables(variables)),
            files: Arc::new(DiskFiles),
            audit_key: ChainKey::Plain,
            audit_log: None,
            keeping: Keeping::InProcess,
            model: ModelMode::Provider,
            deployment: Deployment::Development,
            conversations: Conversations::InMemory,
            application: Vec::new(),
            command: vec!["serve".into(), "shop".into()],
            tell: Arc::new(|_| {}),
            lines: Arc::new(|_| {}),
        }
    }

    pub fn log(&self) -> Vec<Entry> {
        query(&self.home().audit_log(), &Query::default()).unwrap().entries
    }
}

pub fn spec() -> ChatSpec {
    ChatSpec {
        name: AgentName::parse("shop").unwrap(),
        title: "Shop".into(),
        greeting: "Hello".into(),
        model: ModelChoice {
            format: ChatFormat::Anthropic,
            host: Host::parse(MODEL_HOST).unwrap(),
            port: 443,
            path: "/v1/messages".into(),
            model: "claude-sonnet-4-5".into(),
            meter: MeterName::parse("anthropic").unwrap(),
            token_env: Some(SecretName::parse(KEY_NAME).unwrap()),
            output_tokens_max: 1_000,
        },
        prompt: ChatPrompt {
            system: "You answer for a shop.".into(),
            fallback: "I cannot answer that.".into(),
            hand_off: "A colleague will get back to you.".into(),
            ..ChatPrompt::default()
        },
        tools: vec![ToolSource::BuiltIn(BuiltInTool::Calculator), ToolSource::BuiltIn(BuiltInTool::SaveNote)],
        rules: BTreeMap::new(),
        authorize: Vec::new(),
        identity: Identity::Anonymous,
        limits: ChatLimits::default(),
        screening: Screening::default(),
        reply: ReplySpec::default(),
        webhooks: None,
        frame_ancestors: Vec::new(),
        architecture: Default::default(),
    }
}

pub fn asker() -> Asker {
    let principal = Principal { id: "person".into(), kind: PrincipalKind::Terminal, roles: Default::default() };
    Asker { session: SessionId::fresh().unwrap(), principal, address: None }
}
