//! `gwctl check --pre`: whether this machine could run the gateway, asked before it does.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use rustix::process::{Resource, getrlimit};

use super::finding::{Category, Finding, Report};

const NAME: &str = "host";
/// Each request takes a connection from a client and one to a replica, and 1024 is what shells give.
const ENOUGH_FILES: u64 = 10_000;

/// What was seen of this machine.
#[derive(Debug)]
struct Host {
    places: Vec<(SocketAddr, Result<(), io::ErrorKind>)>,
    folder: Option<(PathBuf, Result<(), String>)>,
    /// To how many open files a process may raise its limit; `None`: as many as it likes.
    open_files: Option<u64>,
}

/// Looks, without leaving anything behind.
pub(super) fn report(places: &[SocketAddr], folder: Option<&Path>) -> Report {
    let listen = |place: &SocketAddr| TcpListener::bind(place).map(drop).map_err(|error| error.kind());
    let host = Host {
        places: places.iter().map(|place| (*place, listen(place))).collect(),
        folder: folder.map(|folder| (folder.to_owned(), write_in(folder))),
        open_files: getrlimit(Resource::Nofile).maximum,
    };
    Report(vec![Category { name: NAME, findings: findings(&host) }])
}

/// Whether files can be made there. A folder that is not there yet is made by the control plane: then its parent counts.
fn write_in(folder: &Path) -> Result<(), String> {
    let there = folder.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.exists());
    let there = there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // It goes at once.
    tempfile::tempfile_in(there).map(drop).map_err(|error| format!("{}: {error}", there.display()))
}

fn findings(host: &Host) -> Vec<Finding> {
    const PORT: &str = "host/port";
    const FOLDER: &str = "host/data-dir";
    const FILES: &str = "host/open-files";
    let mut findings: Vec<_> = host
        .places
        .iter()
        .map(|(place, listened)| match listened {
            Ok(()) => Finding::passed(PORT, format!("{place} is free")),
            Err(io::ErrorKind::AddrInUse) => Finding::failed(PORT, format!("somebody listens on {place}"))
                .hint(format!("who: ss -ltnp 'sport = :{}'", place.port()))
                .hint(
                    "or have the gateway listen elsewhere: --listen, --admin-listen; gwctl dev --port-offset",
                ),
            Err(io::ErrorKind::PermissionDenied) => {
                Finding::failed(PORT, format!("this user may not listen on {place}"))
                    .hint("ports below 1024 need CAP_NET_BIND_SERVICE")
            }
            Err(kind) => Finding::failed(PORT, format!("cannot listen on {place}: {kind}")),
        })
        .collect();
    findings.extend(host.folder.as_ref().map(|(folder, written)| match written {
        Ok(()) => Finding::passed(FOLDER, format!("files can be made in {}", folder.display())),
        Err(why) => Finding::failed(FOLDER, format!("no file can be made in {}", folder.display()))
            .because(why.as_str())
            .hint("the control plane keeps its registry there: let its user write, or choose another with --store"),
    }));
    findings.push(match host.open_files {
        Some(files @ ..ENOUGH_FILES) => {
            Finding::warned(FILES, format!("a process may open {files} files at most"))
                .because("every request takes two connections, and each of them is a file")
                .hint(format!(
                    "raise the hard limit: ulimit -Hn {ENOUGH_FILES}, or LimitNOFILE= of the systemd unit"
                ))
        }
        Some(files) => Finding::passed(FILES, format!("a process may open {files} files")),
        None => Finding::passed(FILES, "a process may open any number of files"),
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Outcome, *};

    fn place() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 80))
    }

    #[test]
    fn what_keeps_the_gateway_from_starting_fails_and_what_limits_it_is_a_warning() {
        let host = Host {
            places: vec![
                (place(), Ok(())),
                (place(), Err(io::ErrorKind::AddrInUse)),
                (place(), Err(io::ErrorKind::PermissionDenied)),
            ],
            folder: Some(("/var/lib/gateway".into(), Err("/var/lib: Permission denied".into()))),
            open_files: Some(1024),
        };
        let found = findings(&host);
        let outcomes: Vec<_> = found.iter().map(|finding| finding.outcome).collect();
        assert_eq!(
            outcomes,
            [Outcome::Passed, Outcome::Failed, Outcome::Failed, Outcome::Failed, Outcome::Warned]
        );
        assert!(found.iter().all(|finding| finding.outcome == Outcome::Passed || !finding.hints.is_empty()));
        let well = Host { places: vec![(place(), Ok(()))], folder: None, open_files: None };
        assert!(findings(&well).iter().all(|finding| finding.outcome == Outcome::Passed));
    }

    #[test]
    fn a_folder_that_would_be_made_is_judged_by_its_parent_and_nothing_is_left_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(write_in(&folder.path().join("not/there/yet")), Ok(()));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(write_in(&file).is_err());
    }

    #[test]
    fn a_port_that_is_taken_is_seen() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let report = report(&[taken.local_addr().unwrap()], None);
        assert_eq!(report.worst(), Outcome::Failed);
    }
}
