"""`completion`: what a shell has to know to complete commands, options and names."""

import shlex
import sys

import click

from orchestration.catalog.checkout import PROJECT_ROOT

EPILOG = """\b
Examples, for ~/.bashrc and ~/.zshrc; from any folder:
  eval "$(cd <this folder> && python3 -m orchestration completion bash)"
  eval "$(cd <this folder> && python3 -m orchestration completion zsh)"
"""
FUNCTION = """\
orchestration() {
    PYTHONPATH=%(root)s${PYTHONPATH:+:$PYTHONPATH} %(python)s -m orchestration "$@"
}
"""
# Both take from click what it has for bash: a line of a kind, a comma and a word for each.
BASH = """\
_orchestration() {
    local IFS=$'\\n' kind word
    COMPREPLY=()
    while IFS=, read -r kind word; do
        case $kind in
            plain) COMPREPLY+=("$word") ;;
            file) compopt -o default ;;
        esac
    done < <(env PYTHONPATH=%(root)s COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \\
        _ORCHESTRATION_COMPLETE=bash_complete %(python)s -m orchestration 2>/dev/null)
}
complete -F _orchestration orchestration
"""
ZSH = """\
_orchestration() {
    local -a found
    local line
    for line in "${(@f)$(env PYTHONPATH=%(root)s COMP_WORDS="${words[*]}" \\
        COMP_CWORD=$((CURRENT - 1)) _ORCHESTRATION_COMPLETE=bash_complete \\
        %(python)s -m orchestration 2>/dev/null)}"; do
        case $line in
            plain,*) found+=("${line#plain,}") ;;
            file,*) _files ;;
        esac
    done
    compadd -a found
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _orchestration orchestration
"""


@click.command("completion", short_help="Print completion for bash or zsh.", epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh"]))
def command(shell: str) -> int:
    """Print what gives SHELL a command `orchestration` that completes, in any folder.

    It is this one: `orchestration status` is `python3 -m orchestration status`.
    """
    names = {"root": shlex.quote(str(PROJECT_ROOT)), "python": shlex.quote(sys.executable)}
    print((FUNCTION + (BASH if shell == "bash" else ZSH)) % names, end="")
    return 0
