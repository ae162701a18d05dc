//! The look through the workspace for what would run on the host: beside the run, and told at its end.
//!
//! *Must never* keep a run from its end.

use std::path::PathBuf;
use std::time::Duration;

use carboy_bottle::{Noticed, notice};
use tokio::sync::oneshot;

/// How long the end of a run waits for a look that is not over.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// A look that goes on, on a thread of its own: nothing waits for it longer than [`WAIT_MAX`].
pub(super) struct Noticing(oneshot::Receiver<Vec<Noticed>>);

impl Noticing {
    /// Begins before the program does: what is found is what the workspace brought along.
    pub(super) fn begin(workspace: PathBuf) -> Noticing {
        let (tell, told) = oneshot::channel();
        let look = move || {
            // Whoever asked may be gone.
            let _ = tell.send(notice(&workspace));
        };
        // Without a thread nothing is noticed, and the end says that the look did not come to its end.
        let _ = std::thread::Builder::new().name("look at the workspace".into()).spawn(look);
        Noticing(told)
    }

    /// What was found, for people.
    pub(super) async fn found(&mut self) -> Vec<String> {
        match tokio::time::timeout(WAIT_MAX, &mut self.0).await {
            Ok(Ok(found)) => found.iter().map(told).collect(),
            Ok(Err(_)) | Err(_) => vec!["the workspace was not looked through to its end".into()],
        }
    }
}

fn told(noticed: &Noticed) -> String {
    match noticed.path.as_os_str().is_empty() {
        true => noticed.what.clone(),
        false => format!("{}: {}", noticed.path.display(), noticed.what),
    }
}
