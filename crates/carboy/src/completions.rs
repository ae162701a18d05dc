//! Shell completions: what the definition of the command line gives, and names that only this home knows (its agents,
//! bottles and runs), which the shell asks `carboy names` for.
//!
//! *Must never* offer file names where a name or an id belongs, or print a name that is none.

use std::collections::BTreeSet;
use std::path::Path;

use carboy_control::registry::{self, RunRecord};
use carboy_control::{approvals, runs};
use carboy_core::ids::{AgentName, BottleName};
use carboy_manifest::Manifest;
use clap_complete::{generate, shells};

use crate::applications::ProgramFiles;
use crate::args::{self, NameKind, Shell};
use crate::environment::Environment;
use crate::report::{Exit, Failure};
use crate::{budget, print, resume};

/// Most names that are offered.
const NAMES_MAX: usize = 1_000;

/// The end of bash's script as it is generated: whatever has no completion is a file name.
const BASH_ANY_FILE: &str = "-o bashdefault -o default carboy";

/// What completes values in bash: names where names belong, files where files do, nothing elsewhere.
const BASH_VALUES: &str = r#"
_carboy_values() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" word kind="" files=""
    for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do
        [[ ${word} == -- ]] && files=yes
    done
    case "${prev}" in
        --bottle|-b) kind=bottles ;;
        --bind|--task|--key-from|--socket) files=yes ;;
    esac
    if [[ -z ${files}${kind} && ${cur} != -* && ${prev} != -* ]]; then
        case "${COMP_WORDS[1]} ${COMP_WORDS[2]}" in
            "bottle diff "*|"bottle diff"|"bottle apply") [[ ${COMP_CWORD} -eq 3 ]] && kind=bottles || files=yes ;;
            "bottle "*) [[ ${COMP_CWORD} -eq 3 ]] && kind=bottles ;;
            "audit verify") files=yes ;;
            "lit "*) [[ ${COMP_CWORD} -ge 3 ]] && files=yes ;;
            "run "*|"serve "*|"check "*|"explain "*) [[ ${COMP_CWORD} -eq 2 ]] && kind=agents ;;
            "attach "*|"stop "*) [[ ${COMP_CWORD} -eq 2 ]] && kind=living ;;
            "resume "*) [[ ${COMP_CWORD} -eq 2 ]] && kind=stopped ;;
            "exec "*) [[ ${COMP_CWORD} -eq 2 ]] && kind=living || files=yes ;;
            "budget "*) [[ ${COMP_CWORD} -eq 3 ]] && kind=scopes ;;
            "approve "*) [[ ${COMP_CWORD} -eq 2 ]] && kind=asks ;;
            "wait "*) kind=runs ;;
            "logs "*) [[ ${COMP_CWORD} -eq 2 ]] && kind=runs ;;
        esac
    fi
    if [[ -n ${kind} ]]; then
        COMPREPLY=( $(compgen -W "$("${COMP_WORDS[0]}" names "${kind}" 2>/dev/null)" -- "${cur}") )
        # Where a name may stand an option may as well.
        [[ ${#COMPREPLY[@]} -gt 0 || ${prev} == -* ]] && return 0
    fi
    _carboy "$@"
    if [[ ${#COMPREPLY[@]} -eq 0 && -n ${files} ]]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=( $(compgen -f -- "${cur}") )
    fi
    return 0
}

"#;

/// fish completes options alone from the definition; these are its positional values, and the bottles of `-b`.
const FISH_VALUES: &str = r#"
set -l in_bottle "__fish_carboy_using_subcommand bottle; and __fish_seen_subcommand_from"
complete -c carboy -n "__fish_carboy_using_subcommand run serve check explain" -f -a "(carboy names agents)"
complete -c carboy -n "__fish_carboy_using_subcommand attach exec stop" -f -a "(carboy names living)"
complete -c carboy -n "__fish_carboy_using_subcommand resume" -f -a "(carboy names stopped)"
complete -c carboy -n "__fish_carboy_using_subcommand approve" -f -a "(carboy names asks)"
complete -c carboy -n "__fish_carboy_using_subcommand wait logs" -f -a "(carboy names runs)"
complete -c carboy -n "__fish_carboy_using_subcommand budget; and __fish_seen_subcommand_from show set unset top-up" -f -a "(carboy names scopes)"
complete -c carboy -n "__fish_carboy_using_subcommand allow" -f
complete -c carboy -n "$in_bottle show undo quarantine du rm" -f -a "(carboy names bottles)"
complete -c carboy -n "$in_bottle diff apply" -a "(carboy names bottles)"
complete -c carboy -s b -l bottle -x -a "(carboy names bottles)"
"#;

/// Completions for a shell, as they are printed, packed, and known again by `uninstall`.
pub fn completions_of(shell: Shell) -> Vec<u8> {
    let mut command = args::completed();
    let mut text = Vec::new();
    match shell {
        Shell::Bash => {
            generate(shells::Bash, &mut command, "carboy", &mut text);
            let script = String::from_utf8_lossy(&text).replace(BASH_ANY_FILE, "carboy");
            let script = script.replace("complete -F _carboy ", "complete -F _carboy_values ");
            let (functions, end) = script.rsplit_once("\nif [[ \"${BASH_VERSINFO").unwrap_or((&script, ""));
            return format!("{functions}{BASH_VALUES}if [[ \"${{BASH_VERSINFO{end}").into_bytes();
        }
        Shell::Zsh => generate(shells::Zsh, &mut command, "carboy", &mut text),
        Shell::Fish => {
            generate(shells::Fish, &mut command, "carboy", &mut text);
            text.extend_from_slice(FISH_VALUES.as_bytes());
        }
        Shell::Elvish => generate(shells::Elvish, &mut command, "carboy", &mut text),
        Shell::Powershell => generate(shells::PowerShell, &mut command, "carboy", &mut text),
    }
    text
}

/// `carboy names`: one a line.
pub fn names(kind: NameKind, environment: &Environment) -> Result<u8, Failure> {
    let mut names = BTreeSet::new();
    match kind {
        NameKind::Bottles => names.extend(bottles(environment)),
        NameKind::Agents => names.extend(agents(environment)),
        NameKind::Asks => {
            let waits = approvals::all(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
            names.extend(waits.into_iter().map(|one| one.posted.ask.id().to_owned()));
        }
        NameKind::Stopped => {
            names.extend(resume::stopped_names(environment)?);
        }
        NameKind::Scopes => names.extend(budget::scope_names(environment)),
        NameKind::Living | NameKind::Runs => {
            let living = registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
            let mut records: Vec<RunRecord> = living.into_iter().map(|run| run.record).collect();
            if kind == NameKind::Runs {
                records.extend(runs::past(&environment.home).into_iter().map(|past| past.record));
            }
            let of = |record: RunRecord| [Some(record.run), Some(record.bottle), record.agent].into_iter().flatten();
            names.extend(records.into_iter().flat_map(of));
        }
    }
    let out: String = names.iter().take(NAMES_MAX).map(|name| format!("{name}\n")).collect();
    print(out.as_bytes())
}

/// Bottles that this user has a file of.
pub fn bottles(environment: &Environment) -> impl Iterator<Item = String> {
    stems(&environment.places.bottles()).filter(|name| BottleName::parse(name).is_ok())
}

/// Agents that this user or this directory has a file of, and those that come with the program.
pub fn agents(environment: &Environment) -> impl Iterator<Item = String> {
    let places = &environment.places;
    let roots = [places.agents(), places.cwd_root().join("agents")];
    let all = roots.into_iter().flat_map(|root| stems(&root)).filter(|name| AgentName::parse(name).is_ok());
    all.chain(Manifest::built_in_names(&ProgramFiles))
}

/// `NAME` of each `NAME.md`.
fn stems(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(NAMES_MAX);
    entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".md")?.to_owned()))
}
