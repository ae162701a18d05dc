//! `carboy serve`: a chat agent before people, until somebody asks it to end.
//!
//! ```text
//!  args ─▶ request ─▶ ChatHost ─▶ serve_host(listener) ── standard error: the address, a line of JSON for each request
//!              └─▶ portrait or woven page ─▶ /architecture, where the agent's file says so
//! ```
//!
//! *Must never* listen for other machines unless that was said, say that it serves before the listener is bound, or show an
//! agent's prompt and code to people whose operator has not said so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use carboy_control::chat::{ChatError, ChatHost, Ending};
use carboy_control::serve::{Architecture, Bytes, MetricsPage, OFFLINE, Opening, ServeError, serve_host};
use carboy_control::summary::Ended;
use carboy_core::chat::SourcePage;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::applications;
use crate::args::ServeArgs;
use crate::chat::{Desk, INTERRUPTED, Named, failure, look_up};
use crate::environment::Environment;
use crate::explain::portrait;
use crate::report::{Exit, Failure, Palette, printable};
use crate::signals::{Heard, next};

/// The page's own name; its stylesheet and pictures are called like it.
const PAGE: &str = "architecture";

/// Serves.
pub async fn serve(args: &ServeArgs, environment: Environment) -> Result<u8, Failure> {
    if !args.listen.ip().is_loopback() && !args.listen_anywhere {
        let said = format!("{} can be reached by other machines, and this speaks no TLS", args.listen);
        return Err(Failure::words(Exit::Usage, said)
            .hint("listen on 127.0.0.1 behind a proxy that does (docs/serving.md), or say `--listen-anywhere`"));
    }
    // The port first: nothing is started for a service that nobody could reach.
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::words(Exit::Failed, format!("cannot listen on {}: {error}", args.listen))
            .hint("`--listen 127.0.0.1:8081` takes another port")
    })?;
    let address = listener.local_addr().map_err(|e| Failure::new(Exit::Failed, &e))?;
    let named = Named {
        verb: "serve",
        agent: Some(&args.agent),
        bottles: &[],
        trust: args.trust,
        budget: &args.budget,
        model: args.model.as_deref(),
        thresholds: &args.thresholds,
        audit_log: args.audit_log.as_deref(),
        desk: Desk::Open,
    };
    let request = look_up(&named, environment.clone())?;
    let architecture = match request.spec.architecture {
        SourcePage::Hidden => None,
        SourcePage::Shown => Some(architecture(&args.agent, &environment)?),
    };
    let mut heard = Heard::from_now_on();
    let host = match ChatHost::start_unless(request, heard.ending()).await {
        Err(ChatError::Interrupted) => return Ok(INTERRUPTED),
        started => started.map_err(failure)?,
    };
    said(&host, args, address);
    let opening = Opening {
        trusted_proxies: args.trusted_proxies.clone(),
        architecture,
        metrics: if args.metrics { MetricsPage::Shown } else { MetricsPage::Absent },
        lines: Arc::new(|line| say!("{line}")),
        grace: Duration::from_secs(u64::from(args.grace)),
    };
    let (stop, stopped) = watch::channel(false);
    let listening = tokio::spawn(async move {
        heard.ending().await;
        stop.send_replace(true);
        // Asked twice it does not wait for answers under way.
        tokio::select! {
            () = next(&mut heard.interrupt) => {}
            () = next(&mut heard.terminate) => {}
        }
    });
    let served = tokio::select! {
        served = serve_host(&host, opening, listener, stopped) => served,
        _ = listening => Ok(()),
    };
    let killed = *host.ending().borrow() == Some(Ending::Killed);
    let how = match (&served, killed) {
        (Err(_), _) => Ended::Code(Exit::Failed as u8),
        (Ok(()), true) => Ended::Signal(9),
        (Ok(()), false) => Ended::Code(0),
    };
    let summary = host.end(how).await.map_err(failure)?;
    served.map_err(refused)?;
    Ok(summary.ended.shell_code())
}

/// What a person who started it wants to know.
fn said(host: &ChatHost, args: &ServeArgs, address: std::net::SocketAddr) {
    let palette = Palette::stderr();
    let title = printable(&host.engine().spec().title);
    say!("{} serves at {}", palette.strong(&title), palette.strong(&format!("http://{address}/")));
    if host.is_offline() {
        say!("{}", palette.warn(&format!("{OFFLINE}: no provider is asked, and it knows no facts")));
    }
    let agent = printable(&args.agent);
    let source = match host.engine().spec().architecture {
        SourcePage::Hidden => String::new(),
        SourcePage::Shown => format!("how it is made: http://{address}/architecture   "),
    };
    say!("{source}what it does: carboy top   to end it: Ctrl-C, carboy stop {agent}");
}

/// The page of the agent's source, where it is a document; else of who it is and what it may do.
fn architecture(agent: &str, environment: &Environment) -> Result<Architecture, Failure> {
    // A person's own file of that name is not that document.
    let own = portrait::is_written(agent, environment);
    if let Some([(_, page), files @ ..]) = applications::architecture(agent).filter(|_| !own) {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), Bytes::from_static(text))).collect();
        return Ok(Architecture { page: Bytes::from_static(page), files, policy: None });
    }
    let site = portrait::of(agent, PAGE, environment)?;
    let (mut page, mut files) = (Bytes::new(), BTreeMap::new());
    for (name, text) in site.files {
        if name == site.page {
            page = text.into();
        } else {
            files.insert(name, text.into());
        }
    }
    Ok(Architecture { page, files, policy: None })
}

fn refused(error: ServeError) -> Failure {
    let exit = match &error {
        ServeError::SecretTooShort { .. } | ServeError::Identity(_) => Exit::Config,
        ServeError::Listener(_) => Exit::Failed,
    };
    Failure::new(exit, &error)
}
