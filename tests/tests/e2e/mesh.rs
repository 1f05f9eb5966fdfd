//! A mesh forms, keeps its word while machines die, and takes commands anywhere.

use std::{collections::BTreeSet, time::Duration};

use shoal_tests::{Lab, Mesh, text};

/// Longer than an election or a reconnection takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn three_servers_and_an_agent_become_one_mesh() {
    let Some(lab) = Lab::for_test("forms") else {
        return;
    };
    let mesh = Mesh::new(&lab, 3, 1);
    let mut mesh_ids = BTreeSet::new();
    for node in &mesh.nodes {
        let status = node.host.shoal_json(&["status"]);
        mesh_ids.insert(text(&status, "mesh_id"));
        assert_eq!(status["node"], node.name());
        let role = if node.name() == "a1" {
            "agent"
        } else {
            "server"
        };
        assert_eq!(status["role"], role);
        assert!(status["raft_index"].as_u64() > Some(0), "{status}");
        let rows = node.host.shoal(&["node", "ls", "--json"]).ok().json_rows();
        let names: Vec<_> = rows.iter().map(|row| text(row, "name")).collect();
        assert_eq!(BTreeSet::from_iter(names), names_of(&mesh));
        for row in rows {
            assert_eq!(row["silent"], false, "{row}");
            assert_eq!(row["state"], "running", "{row}");
            for key in [
                "id",
                "role",
                "labels",
                "overlay_ipv6",
                "overlay_ipv4",
                "last_seen_ms",
            ] {
                assert!(!row[key].is_null(), "{key} is missing in {row}");
            }
        }
    }
    assert_eq!(mesh_ids.len(), 1);
    mesh.wait_until_everyone_answers_everyone(SOON);
}

fn names_of(mesh: &Mesh) -> BTreeSet<String> {
    mesh.nodes
        .iter()
        .map(|node| node.name().to_owned())
        .collect()
}
