# Brings the Debian packages of commands that are missing; to be sourced. Needs `say` and `$python`.
#
#   need_packages curl rg …       installs as root; otherwise prints the line to run and stops

need_packages() {
    missing=
    for command in "$@"; do
        command -v "$command" >/dev/null 2>&1 || case $command in
            bwrap) missing="$missing bubblewrap" ;;
            node) missing="$missing nodejs" ;;
            rg) missing="$missing ripgrep" ;;
            *) missing="$missing $command" ;;
        esac
    done
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        say "missing:$missing; run: sudo apt-get install --no-install-recommends -y$missing"
        exit 1
    fi
    say "installing$missing"
    DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
    # shellcheck disable=SC2086  # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -q --no-install-recommends -y $missing >&2
}
