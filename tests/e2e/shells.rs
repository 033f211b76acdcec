//! `gwctl` in people's shells and terminals: names complete, and long text is paged.

use std::{path::Path, process::Command};

use gateway_tests::{Act, Gateway, Scripted, binaries, command, eventually, tools};

/// A shell that finds gwctl by its name.
fn path() -> String {
    let gwctl = binaries::gwctl().get_program().to_os_string();
    let folder = Path::new(&gwctl).parent().expect("it is in a folder").display().to_string();
    format!("{folder}:{}", std::env::var("PATH").unwrap_or_default())
}

/// What a TAB at the end of a line offers, in bash, with the script that gwctl prints for it.
async fn offered(line: &str, endpoint: &str) -> Vec<String> {
    const ASK: &str = r#"
        source <(gwctl completion bash)
        read -ra COMP_WORDS <<<"$1"
        [[ "$1" == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
        _clap_complete_gwctl gwctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = Command::new(tools::bash());
    bash.args(["-c", ASK, "bash", line]).env("PATH", path()).env("GWCTL_ENDPOINT", endpoint);
    bash.env("GWCTL_CONFIG", "/nonexistent/gwctl.toml");
    command::run(bash).await.success().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn commands_flags_and_the_names_of_what_is_registered_complete_by_bash() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    gateway.register("orders", "r-2", "127.0.0.1:9".parse().unwrap()).await;
    gateway.register("users", "u-1", "127.0.0.1:10".parse().unwrap()).await;
    let url = gateway.control.url();

    assert_eq!(offered("gwctl descr", &url).await, ["describe"]);
    assert!(offered("gwctl get breakers --fil", &url).await.contains(&"--filter".to_owned()));
    assert_eq!(offered("gwctl describe service ", &url).await, ["orders", "users"]);
    assert_eq!(offered("gwctl get replicas us", &url).await, ["users"]);
    assert_eq!(offered("gwctl describe replica or", &url).await, ["orders/r-1", "orders/r-2"]);
    assert_eq!(offered("gwctl drain orders/r-2", &url).await, ["orders/r-2"]);
    assert_eq!(offered("gwctl explain u", &url).await, ["users", "users/u-1"]);
    eventually("the data plane is known", async || {
        let offered = offered("gwctl describe node ", &url).await;
        if offered == ["dp-1"] { Ok(()) } else { Err(format!("{offered:?}")) }
    })
    .await;
    // The line says where to ask, whatever the environment does.
    let line = format!("gwctl -e {url} describe replica use");
    assert_eq!(offered(&line, "http://127.0.0.1:9").await, ["users/u-1"]);
    // Nobody is there: no names, no error in the middle of a line, and no long wait.
    let began = std::time::Instant::now();
    assert_eq!(offered("gwctl describe replica or", "http://127.0.0.1:9").await, [""]);
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
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
