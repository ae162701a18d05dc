//! Arguments of the commands that stop runs and let them go on.

use carboy_core::budget::Shutdown;
use clap::Args;

use crate::client::DetachKey;

#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Without one of the four it is what `shutdown` of the bottle's file says; where that says nothing the program is \
                  asked to end (SIGTERM), and what is left after 10 s is killed. Exit codes: 0 done; 1 no such run lives, or \
                  one has not ended in time; 2 bad usage; 70 carboy failed."
)]
pub struct StopArgs {
    /// Run, bottle or agent
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub target: Option<String>,
    /// Every run of this user
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub how: How,
    /// Do not wait until it has ended
    #[arg(long)]
    pub no_wait: bool,
    /// Print JSON: each run and how it stands
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct How {
    /// Close every route; its processes go on
    #[arg(long)]
    pub cutoff: bool,
    /// Stop its processes where they stand
    #[arg(long)]
    pub pause: bool,
    /// End its processes and keep what it takes to start it again, with the bottle's home and files
    #[arg(long)]
    pub freeze: bool,
    /// End it at once, without asking the program first
    #[arg(long)]
    pub kill: bool,
}

impl How {
    /// The one that was given.
    pub fn given(&self) -> Option<Shutdown> {
        let all = [
            (self.cutoff, Shutdown::Cutoff),
            (self.pause, Shutdown::Pause),
            (self.freeze, Shutdown::Freeze),
            (self.kill, Shutdown::Kill),
        ];
        all.into_iter().find(|(given, _)| *given).map(|(_, how)| how)
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "A run that was cut off has its routes again, one that was paused goes on where it stood. One that was frozen or lost is \
                  started again under its old id: with the flags it had, its home and its files, and, where the agent can, in the same \
                  conversation (claude --continue, codex resume --last, gemini --resume latest, opencode --continue). Values of --env are \
                  not kept: they are taken from this shell, or given again. Exit codes: the run's own; 1 there is nothing to resume; 77 \
                  the cap that stopped it is still spent, or it was refused; 0 with -d, and for a run that nobody attaches to."
)]
pub struct ResumeArgs {
    /// Run, bottle or agent [default: the one that is stopped]
    #[arg(conflicts_with = "all")]
    pub target: Option<String>,
    /// Every run that is cut off, paused or frozen; none is attached to
    #[arg(long)]
    pub all: bool,
    /// Do not attach to it; print its run's id
    #[arg(long, short = 'd')]
    pub detach: bool,
    /// Do not attach to it; print its record as JSON, a line for each run
    #[arg(long)]
    pub json: bool,
    /// Environment variable that the run was given: NAME=VALUE, or NAME to pass this shell's value
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Agree to an agent file of the working directory that has changed, without being asked
    #[arg(long)]
    pub trust: bool,
    /// Key that leaves it: ctrl-X, or `none`
    #[arg(long, value_name = "KEY", default_value = "ctrl-]")]
    pub detach_key: DetachKey,
}

impl ResumeArgs {
    /// One run, and nobody attaches to it.
    pub fn detached(run: &str) -> ResumeArgs {
        ResumeArgs {
            target: Some(run.to_owned()),
            all: false,
            detach: true,
            env: Vec::new(),
            trust: false,
            detach_key: DetachKey::default(),
            json: false,
        }
    }
}
