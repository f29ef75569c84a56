//! Which node a host is.

use super::*;
use crate::error::Chain;

#[tokio::test]
async fn a_host_that_is_renamed_stays_the_node_it_is_and_refuses_to_be_another() {
    let host = Host::new();
    let shared = host.shared();
    let mut contents = Contents { identity: Some(host.identity.clone()), ..Contents::default() };
    let mut settings = AgentSettings { control: None, node_name: "renamed".into(), ..shared.settings };
    let joined = join::join(&settings, &shared.facts, &mut contents, None).await.unwrap();
    assert_eq!(joined.identity, host.identity);

    settings.name_is_chosen = true;
    let refused = join::join(&settings, &shared.facts, &mut contents, None).await.err().unwrap();
    assert_eq!(
        Chain(&refused).to_string(),
        format!(
            "the ledger in {} is of node node-1, and nodeName is renamed: a node's name is fixed once it has one. Set it back to \
             node-1; to make this host another node, garrison purge it, kubectl delete node node-1, and let it join with a new token",
            host.dir.path().display()
        )
    );
    assert_eq!(contents.identity, Some(host.identity.clone()));
    settings.node_name = "node-1".into();
    assert!(join::join(&settings, &shared.facts, &mut contents, None).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_runtime_says_how_it_makes_cgroups_before_a_pod_is_made() {
    let mut host = Host::new();
    host.cgroup_driver = CgroupDriver::Cgroupfs;
    host.cri.go_away();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    agent.settle().await;
    host.cri.come_back();
    host.runs("web", "one").await;
    let sandboxes = host.cri.calls().into_iter().filter(|call| call.method == "RunPodSandbox");
    let parents = sandboxes.map(|call| call.request["config"]["linux"]["cgroup_parent"].as_str().unwrap().to_owned());
    assert!(parents.collect::<Vec<_>>().iter().all(|parent| parent.ends_with(".slice")));
}

#[tokio::test]
async fn an_address_that_was_not_chosen_follows_the_host() {
    let host = Host::new();
    let mut shared = host.shared();
    let before = shared.host();
    shared.look_at_host().await;
    assert!(Arc::ptr_eq(&before, &shared.host()), "it was chosen, and nothing else has changed");
    shared.settings.node_ip = None;
    shared.look_at_host().await;
    let found = facts::addresses();
    assert_eq!(shared.host().ips, if found.is_empty() { before.ips.clone() } else { found });
}
