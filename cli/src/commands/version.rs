//! `gwctl version`: which versions of everything there are, and whether they are meant to work together.

use std::collections::BTreeMap;

use gateway_proto::v1::ListNodesResponse;
use serde_json::{Value, json};

use super::check::listed;
use crate::{
    age::or_none,
    control::Control,
    error::Error,
    output::{Format, Output},
    partial,
    table::{CAUTION, Cell, Table},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Flags of `gwctl version`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// That of gwctl only, without asking a control plane
    #[arg(long)]
    pub(crate) client: bool,
}

/// Prints gwctl's own version, and those that the control plane knows of.
///
/// # Errors
/// When it does not answer; gwctl's own version has been printed then.
pub(crate) async fn run<C: Future<Output = Result<Control, Error>>>(
    args: &Args,
    connect: impl FnOnce() -> C,
    output: &Output,
) -> Result<(), Error> {
    if args.client || output.format == Format::Name {
        return print(None, output);
    }
    let known = async {
        let control = connect().await?;
        Ok::<_, Error>((control.endpoint().to_string(), control.nodes().await?))
    };
    match known.await {
        Ok((endpoint, nodes)) => {
            let versions = Versions::of(&endpoint, &nodes);
            print(Some(&versions), output)?;
            versions.skew().into_iter().for_each(|note| output.note(note));
            partial::notes(&nodes.silent_control_planes).for_each(|note| output.note(note));
            Ok(())
        }
        Err(error) => {
            print(None, output)?;
            Err(error)
        }
    }
}

fn print(versions: Option<&Versions>, output: &Output) -> Result<(), Error> {
    match (output.format, versions) {
        (Format::Json, None) => output.value(&json!({"version": VERSION})),
        (Format::Json, Some(versions)) => output.value(&versions.to_json()),
        (_, None) => output.data(format_args!("gwctl {VERSION}\n")),
        (_, Some(versions)) => output.table(versions.table()),
    }
}

/// Who runs which version.
struct Versions {
    /// Address, and version; that of the one that answers first.
    control_planes: Vec<(String, String)>,
    /// Name, and version.
    data_planes: Vec<(String, String)>,
}

impl Versions {
    fn of(endpoint: &str, known: &ListNodesResponse) -> Self {
        let name = if known.control_plane.is_empty() { endpoint } else { &known.control_plane };
        let first = (name.to_owned(), known.control_plane_version.clone());
        let peers = known.peers.iter().map(|peer| (peer.address.clone(), peer.version.clone()));
        let nodes = known.nodes.iter().map(|node| (node.node_id.clone(), node.version.clone()));
        Self { control_planes: [first].into_iter().chain(peers).collect(), data_planes: nodes.collect() }
    }

    fn to_json(&self) -> Value {
        let told = |of: &[(String, String)], name: &str| -> Vec<Value> {
            of.iter().map(|(who, version)| json!({name: who, "version": version})).collect()
        };
        json!({
            "version": VERSION,
            "controlPlanes": told(&self.control_planes, "address"),
            "dataPlanes": told(&self.data_planes, "nodeId"),
        })
    }

    /// A row for each version of each program.
    fn table(&self) -> Table {
        let mut table = Table::new(["PROGRAM", "VERSION", "WHERE"]);
        table.push(vec!["gwctl".into(), VERSION.into(), or_none("").into()]);
        for (program, of) in [("control plane", &self.control_planes), ("data plane", &self.data_planes)] {
            let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (who, version) in of {
                by_version.entry(version).or_default().push(who);
            }
            for (version, who) in by_version {
                let told = match apart(version) {
                    Apart::Not | Apart::Unknown => or_none(version).into(),
                    Apart::Near | Apart::Far => Cell::styled(version, CAUTION),
                };
                table.push(vec![program.into(), told, listed(&who).into()]);
            }
        }
        table
    }

    /// What is to be said of versions that differ from gwctl's.
    fn skew(&self) -> Option<String> {
        let all = self.control_planes.iter().chain(&self.data_planes);
        match all.map(|(_, version)| apart(version)).max()? {
            Apart::Not | Apart::Unknown => None,
            Apart::Near => Some(format!(
                "versions differ from gwctl's {VERSION}: neighbouring minor versions work together, in any order of upgrading"
            )),
            Apart::Far => Some(format!(
                "versions are further from gwctl's {VERSION} than a minor one: only neighbours are meant to work together; upgrade one \
                 minor version after the other"
            )),
        }
    }
}

/// How far a version is from gwctl's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Apart {
    Not,
    /// It is not told, or no version.
    Unknown,
    /// The same minor version, or a neighbour.
    Near,
    Far,
}

fn apart(version: &str) -> Apart {
    match (version == VERSION, minor(version), minor(VERSION)) {
        (true, ..) => Apart::Not,
        (_, Some((major, minor)), Some(own)) if major == own.0 && minor.abs_diff(own.1) <= 1 => Apart::Near,
        (_, Some(_), Some(_)) => Apart::Far,
        _ => Apart::Unknown,
    }
}

/// Major and minor version of `1.2.3`.
fn minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::{Node, PeerControlPlane};

    use super::*;

    fn versions(control_plane: &str, data_planes: &[(&str, &str)]) -> Versions {
        let peer =
            PeerControlPlane { address: "b:7400".into(), version: VERSION.into(), ..Default::default() };
        let node = |(id, version): &(&str, &str)| Node {
            node_id: (*id).into(),
            version: (*version).into(),
            ..Default::default()
        };
        let known = ListNodesResponse {
            control_plane: "a:7400".into(),
            control_plane_version: control_plane.into(),
            peers: vec![peer],
            nodes: data_planes.iter().map(node).collect(),
            ..Default::default()
        };
        Versions::of("http://a:7400", &known)
    }

    #[test]
    fn each_version_of_each_program_has_a_row_and_who_runs_it() {
        let shown = versions("9.9.9", &[("dp-1", VERSION), ("dp-2", ""), ("dp-3", VERSION)]);
        let text = anstream::adapter::strip_str(&shown.table().to_string()).to_string();
        let expected = format!(
            "\
PROGRAM         VERSION   WHERE
gwctl           {VERSION}     -
control plane   {VERSION}     b:7400
control plane   9.9.9     a:7400
data plane      -         dp-2
data plane      {VERSION}     dp-1, dp-3
"
        );
        assert_eq!(text, expected);
        let json = shown.to_json();
        assert_eq!(json["version"], VERSION);
        assert_eq!(json["controlPlanes"][0], json!({"address": "a:7400", "version": "9.9.9"}));
        assert_eq!(json["dataPlanes"][1], json!({"nodeId": "dp-2", "version": ""}));
    }

    #[test]
    fn how_far_versions_are_apart_is_told_unless_they_are_the_same() {
        let (major, minor) = minor(VERSION).unwrap();
        let near = format!("{major}.{}.7", minor + 1);
        let far = format!("{major}.{}.0", minor + 2);
        let skew =
            |control_plane: &str, data_plane: &str| versions(control_plane, &[("dp-1", data_plane)]).skew();
        assert_eq!((skew(VERSION, VERSION), skew(VERSION, ""), skew(VERSION, "what?")), (None, None, None));
        assert!(skew(VERSION, &near).unwrap().contains("work together, in any order"));
        assert!(skew(&near, &far).unwrap().contains("one minor version after the other"));
        assert_eq!(apart(&format!("{}.{minor}.0", major + 1)), Apart::Far);
    }

    #[test]
    fn one_without_a_name_of_its_own_is_told_by_where_it_was_asked() {
        let known = ListNodesResponse { control_plane_version: VERSION.into(), ..Default::default() };
        let shown = Versions::of("http://127.0.0.1:7400", &known);
        assert_eq!(shown.control_planes, [("http://127.0.0.1:7400".to_owned(), VERSION.to_owned())]);
    }
}
