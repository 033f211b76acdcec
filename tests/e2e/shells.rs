//! `gwctl` in people's shells and terminals: names complete, and long text is paged.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use gateway_tests::{Act, Gateway, Scripted, binaries, command, eventually, tools};

/// A shell that finds gwctl by its name.
fn path() -> String {
    let gwctl = binaries::gwctl().get_program().to_os_string();
    let folder = Path::new(&gwctl).parent().expect("it is in a folder").display().to_string();
    format!("{folder}:{}", std::env::var("PATH").unwrap_or_default())
}

/// A shell, and how it says what a TAB at the end of a line offers, with the script that gwctl prints for it.
struct Shell {
    program: PathBuf,
    /// The line follows these.
    args: &'static [&'static str],
}

impl Shell {
    fn bash() -> Self {
        const ASK: &str = r#"
            source <(gwctl completion bash)
            read -ra COMP_WORDS <<<"$1"
            [[ "$1" == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
            _clap_complete_gwctl gwctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        Self { program: tools::bash(), args: &["--norc", "-c", ASK, "bash"] }
    }

    /// What its function would hand to zsh's own, which works only while somebody types.
    fn zsh() -> Self {
        const ASK: &str = r#"
            autoload -Uz compinit && compinit -D -u
            source <(gwctl completion zsh)
            _describe() { printf '%s\n' "${${(P)@[-1]}[@]%%:*}" }
            words=(${(z)1})
            [[ $1 == *" " ]] && words+=("")
            CURRENT=$#words
            $_comps[gwctl]
        "#;
        Self { program: tools::zsh(), args: &["-f", "-c", ASK, "zsh"] }
    }

    fn fish() -> Self {
        const ASK: &str = r#"
            gwctl completion fish | source
            complete --do-complete $argv[1] | string split --fields 1 \t
        "#;
        Self { program: tools::fish(), args: &["--no-config", "-c", ASK] }
    }

    async fn offers(&self, line: &str, endpoint: &str) -> Vec<String> {
        let home = tempfile::tempdir().unwrap();
        let mut shell = Command::new(&self.program);
        shell.args(self.args).arg(line).env("PATH", path()).env("GWCTL_ENDPOINT", endpoint);
        shell.env("HOME", home.path()).env("GWCTL_CONFIG", "/nonexistent/gwctl.toml");
        let finished = command::run(shell).await;
        let offered = finished.stdout.lines().filter(|word| !word.is_empty());
        assert_eq!(finished.stderr, "", "nothing is said in the middle of a line");
        offered.map(str::to_owned).collect()
    }

    /// Asserts that it completes commands, flags, and names of what is registered.
    async fn completes(&self) {
        let gateway = Gateway::start().await;
        let replica = Scripted::start(|_, _| Act::ok(b"hello"));
        gateway.register("orders", "r-1", replica.address()).await;
        gateway.register("orders", "r-2", "127.0.0.1:9".parse().unwrap()).await;
        gateway.register("users", "u-1", "127.0.0.1:10".parse().unwrap()).await;
        let url = gateway.control.url();

        assert_eq!(self.offers("gwctl descr", &url).await, ["describe"]);
        assert!(self.offers("gwctl get breakers --fil", &url).await.contains(&"--filter".to_owned()));
        assert_eq!(self.offers("gwctl describe service ", &url).await, ["orders", "users"]);
        assert_eq!(self.offers("gwctl get replicas us", &url).await, ["users"]);
        assert_eq!(self.offers("gwctl describe replica or", &url).await, ["orders/r-1", "orders/r-2"]);
        assert_eq!(self.offers("gwctl drain orders/r-2", &url).await, ["orders/r-2"]);
        assert_eq!(self.offers("gwctl explain u", &url).await, ["users", "users/u-1"]);
        eventually("the data plane is known", async || {
            let offered = self.offers("gwctl describe node ", &url).await;
            if offered == ["dp-1"] { Ok(()) } else { Err(format!("{offered:?}")) }
        })
        .await;
        // The line says where to ask, whatever the environment does.
        let line = format!("gwctl -e {url} describe replica use");
        assert_eq!(self.offers(&line, "http://127.0.0.1:9").await, ["users/u-1"]);
        // Nobody is there: no names, no error in the middle of a line, and no long wait.
        let began = Instant::now();
        assert!(self.offers("gwctl describe replica or", "http://127.0.0.1:9").await.is_empty());
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn commands_flags_and_the_names_of_what_is_registered_complete_by_bash() {
    Shell::bash().completes().await;
}

#[tokio::test]
async fn commands_flags_and_the_names_of_what_is_registered_complete_by_zsh() {
    Shell::zsh().completes().await;
}

#[tokio::test]
async fn commands_flags_and_the_names_of_what_is_registered_complete_by_fish() {
    Shell::fish().completes().await;
}

/// What a terminal of so many lines shows of a command, and of the pager that it calls.
async fn on_a_terminal(line: &str, lines: u32, environment: &[(&str, &str)]) -> String {
    let mut script = Command::new(tools::script());
    let line = format!("stty rows {lines} cols 100; {line}");
    script.args(["-qec", &line, "/dev/null"]).env("PATH", path()).env("TERM", "xterm");
    script.env_remove("PAGER").env_remove("NO_COLOR").envs(environment.iter().copied());
    command::run(script).await.success()
}

#[tokio::test]
async fn long_text_is_paged_on_a_terminal_unless_somebody_says_otherwise_by_script() {
    let paged = [("GWCTL_PAGER", "sed 's/^/paged: /'")];
    let text = on_a_terminal("gwctl docs markdown", 20, &paged).await;
    assert!(text.contains("paged: # gwctl"), "{}", &text[..text.len().min(300)]);
    // It is read in part, and left.
    let left = on_a_terminal("gwctl docs markdown", 20, &[("PAGER", "head -n 1")]).await;
    assert_eq!(left.trim(), "# gwctl");
    for (line, lines, environment) in [
        ("gwctl docs markdown", 9000, &paged[..]),
        ("gwctl docs markdown --no-pager", 20, &paged[..]),
        ("gwctl docs markdown | cat", 20, &paged[..]),
        ("gwctl docs markdown", 20, &[("PAGER", "")][..]),
        ("gwctl docs markdown", 20, &[("PAGER", "there-is-no-such-program")][..]),
        ("TERM=dumb gwctl docs markdown", 20, &paged[..]),
    ] {
        let text = on_a_terminal(line, lines, environment).await;
        assert!(text.contains("# gwctl") && text.contains("## gwctl version"), "{line} {environment:?}");
        assert!(!text.contains("paged: "), "{line} {environment:?}");
    }
}
