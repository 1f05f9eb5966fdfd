//! Claims about scenario files: what is wrong is said with its line and what to do.

use simulations::{Scenario, ScenarioError};

const HEAD: &str = "name = \"mine\"\nnodes = 6\n";

fn refused(rest: &str) -> ScenarioError {
    Scenario::parse(&format!("{HEAD}{rest}")).expect_err("it is refused")
}

#[test]
fn the_least_scenario_is_a_name_and_a_number_of_nodes() {
    let scenario = Scenario::parse(HEAD).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.nodes), ("mine", 6));
    assert_eq!(scenario, Scenario::calm("mine", 6));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_wherever_it_stands() {
    for (rest, line) in [
        ("about = \"x\"\nsize = 3\n", 4),
        ("[network]\nlatency = 3\n", 4),
        ("\n[[fault]]\nkind = \"crash\"\nnodes = 1\nwhen = 3\n", 7),
    ] {
        let error = refused(rest);
        let ScenarioError::Syntax { line: at, problem } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*at, line, "{error}");
        assert!(problem.contains("unknown field"), "{error}");
        assert_eq!(error.code(), "ScenarioSyntaxError");
    }
}

#[test]
fn a_value_beyond_its_limits_is_refused_with_the_limits() {
    for (rest, said) in [
        (
            "calm_s = -1\n",
            "line 3: `calm_s` is -1, and must be a time from 0 to a day",
        ),
        (
            "[network]\nloss_percent = 101\n",
            "line 4: `loss_percent` is 101, and must be from 0 to 100",
        ),
        (
            "[network]\nlatency_ms = [5, 1]\n",
            "line 4: `latency_ms` is 1, and must be the least, then the most",
        ),
    ] {
        assert_eq!(refused(rest).to_string(), said);
        assert!(!refused(rest).hint().is_empty());
    }
}

#[test]
fn a_fault_says_what_it_needs_and_what_it_has_no_use_for() {
    let missing = refused("[[fault]]\nkind = \"stall\"\nfor_s = 1\n");
    assert_eq!(
        missing.to_string(),
        "line 4: a fault of kind `stall` needs `nodes`"
    );
    let endless = refused("[[fault]]\nkind = \"stall\"\nnodes = 1\n");
    assert_eq!(
        endless.to_string(),
        "line 4: a fault of kind `stall` needs `for_s`"
    );
    let surplus = refused("[[fault]]\nkind = \"crash\"\nnodes = 1\npercent = 3\n");
    assert_eq!(
        surplus.to_string(),
        "line 4: a fault of kind `crash` has no `percent`"
    );
    assert_eq!(surplus.hint(), "remove `percent` from that fault");
}

#[test]
fn a_fault_that_the_mesh_is_too_small_for_is_refused() {
    let error = refused("[[fault]]\nkind = \"crash\"\nat_s = 2\nnodes = [6]\n");
    assert_eq!(
        error.to_string(),
        "the fault crash at 2 s names node 6, and the mesh has 6 nodes"
    );
    let scenario = Scenario::parse(&format!("{HEAD}[[fault]]\nkind=\"crash\"\nnodes=4\n"));
    let error = scenario
        .unwrap()
        .sized(3)
        .expect_err("three are fewer than four");
    assert_eq!(error.code(), "ScenarioSizeError");
}

#[test]
fn sets_of_nodes_are_counts_lists_shares_regions_or_relative_to_the_other_side() {
    let fault = |nodes: &str| {
        let rest = format!("[[region]]\nname=\"a\"\n[[fault]]\nkind=\"kill\"\nnodes={nodes}\n");
        Scenario::parse(&format!("{HEAD}{rest}"))
    };
    for good in ["1", "[0, 5]", "\"50%\"", "\"half\"", "\"region:a\""] {
        assert!(fault(good).is_ok(), "{good}");
    }
    for bad in [
        "0",
        "-1",
        "[]",
        "1.5",
        "\"101%\"",
        "\"some\"",
        "\"others\"",
        "\"region:b\"",
    ] {
        assert!(fault(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_topology_of_regions_is_read_and_an_unknown_region_is_refused() {
    let text = format!(
        "{HEAD}[[region]]\nname = \"a\"\nshare = 2\n[[region]]\nname = \"b\"\n\
         [[between]]\nregions = [\"a\", \"b\"]\nlatency_ms = [20, 30]\n"
    );
    let scenario = Scenario::parse(&text).unwrap();
    assert_eq!(scenario.topology.regions.len(), 2);
    assert_eq!(scenario.topology.between.len(), 1);
    let error = Scenario::parse(&text.replace("\"a\", \"b\"", "\"a\", \"c\"")).unwrap_err();
    assert_eq!(error.to_string(), "there is no region `c`");
    assert_eq!(error.hint(), "the regions are a, b");
}
