//! Which node a host is.

use super::*;
use crate::error::Chain;

#[tokio::test]
async fn a_host_that_is_renamed_stays_the_node_it_is_and_refuses_to_be_another() {
    let host = Host::new();
    let shared = host.shared();
    let mut contents = Contents { identity: Some(host.identity.clone()), ..Contents::default() };
    let mut settings = AgentSettings { control: None, node_name: "renamed".into(), ..shared.settings };
    let joined = join::join(&settings, &shared.facts, &mut contents).await.unwrap();
    assert_eq!(joined.identity, host.identity);

    settings.name_is_chosen = true;
    let refused = join::join(&settings, &shared.facts, &mut contents).await.err().unwrap();
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
    assert!(join::join(&settings, &shared.facts, &mut contents).await.is_ok());
}
