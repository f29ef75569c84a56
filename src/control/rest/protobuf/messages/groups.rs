//! The messages of the named groups, all of version `v1`.

use super::core::{EVENT_SOURCE, OBJECT_REFERENCE};
use super::messages;
use super::meta::{
    CONDITION, DELETE_OPTIONS, FIELD_SELECTOR_REQUIREMENT, LABEL_SELECTOR, LABEL_SELECTOR_REQUIREMENT, OBJECT_META,
};
use super::pod::{POD_TEMPLATE_SPEC, TOLERATION};

messages! {
    // === apps ===
    CONTROLLER_REVISION { 1 metadata OBJECT_META, 2 data json, 3 revision int }
    DAEMON_SET { 1 metadata OBJECT_META, 2 spec DAEMON_SET_SPEC, 3 status DAEMON_SET_STATUS }
    DAEMON_SET_CONDITION { 1 type text, 2 status text, 3 lastTransitionTime time, 4 reason text, 5 message text }
    DAEMON_SET_SPEC {
        1 selector (LABEL_SELECTOR), 2 template POD_TEMPLATE_SPEC, 3 updateStrategy DAEMON_SET_UPDATE_STRATEGY,
        4 minReadySeconds int, 6 revisionHistoryLimit (int),
    }
    DAEMON_SET_STATUS {
        1 currentNumberScheduled int, 2 numberMisscheduled int, 3 desiredNumberScheduled int, 4 numberReady int,
        5 observedGeneration int, 6 updatedNumberScheduled int, 7 numberAvailable int, 8 numberUnavailable int,
        9 collisionCount (int), 10 conditions [DAEMON_SET_CONDITION],
    }
    DAEMON_SET_UPDATE_STRATEGY { 1 type text, 2 rollingUpdate (ROLLING_UPDATE_DAEMON_SET) }
    ROLLING_UPDATE_DAEMON_SET { 1 maxUnavailable (int_or_string), 2 maxSurge (int_or_string) }

    // === authentication ===
    BOUND_OBJECT_REFERENCE { 1 kind text, 2 apiVersion text, 3 name text, 4 uid text }
    SELF_SUBJECT_REVIEW { 1 metadata OBJECT_META, 2 status SELF_SUBJECT_REVIEW_STATUS }
    SELF_SUBJECT_REVIEW_STATUS { 1 userInfo USER_INFO }
    TOKEN_REQUEST { 1 metadata OBJECT_META, 2 spec TOKEN_REQUEST_SPEC, 3 status TOKEN_REQUEST_STATUS }
    TOKEN_REQUEST_SPEC { 1 audiences [text], 3 boundObjectRef (BOUND_OBJECT_REFERENCE), 4 expirationSeconds (int) }
    TOKEN_REQUEST_STATUS { 1 token text, 2 expirationTimestamp time }
    TOKEN_REVIEW { 1 metadata OBJECT_META, 2 spec TOKEN_REVIEW_SPEC, 3 status TOKEN_REVIEW_STATUS }
    TOKEN_REVIEW_SPEC { 1 token text, 2 audiences [text] }
    TOKEN_REVIEW_STATUS { 1 authenticated bool, 2 user USER_INFO, 3 error text, 4 audiences [text] }
    USER_INFO { 1 username text, 2 uid text, 3 groups [text], 4 extra {strings} }

    // === authorization ===
    FIELD_SELECTOR_ATTRIBUTES { 1 rawSelector text, 2 requirements [FIELD_SELECTOR_REQUIREMENT] }
    LABEL_SELECTOR_ATTRIBUTES { 1 rawSelector text, 2 requirements [LABEL_SELECTOR_REQUIREMENT] }
    LOCAL_SUBJECT_ACCESS_REVIEW {
        1 metadata OBJECT_META, 2 spec SUBJECT_ACCESS_REVIEW_SPEC, 3 status SUBJECT_ACCESS_REVIEW_STATUS,
    }
    NON_RESOURCE_ATTRIBUTES { 1 path text, 2 verb text }
    NON_RESOURCE_RULE { 1 verbs [text], 2 nonResourceURLs [text] }
    RESOURCE_ATTRIBUTES {
        1 namespace text, 2 verb text, 3 group text, 4 version text, 5 resource text, 6 subresource text,
        7 name text, 8 fieldSelector (FIELD_SELECTOR_ATTRIBUTES), 9 labelSelector (LABEL_SELECTOR_ATTRIBUTES),
    }
    RESOURCE_RULE { 1 verbs [text], 2 apiGroups [text], 3 resources [text], 4 resourceNames [text] }
    SELF_SUBJECT_ACCESS_REVIEW {
        1 metadata OBJECT_META, 2 spec SELF_SUBJECT_ACCESS_REVIEW_SPEC, 3 status SUBJECT_ACCESS_REVIEW_STATUS,
    }
    SELF_SUBJECT_ACCESS_REVIEW_SPEC {
        1 resourceAttributes (RESOURCE_ATTRIBUTES), 2 nonResourceAttributes (NON_RESOURCE_ATTRIBUTES),
    }
    SELF_SUBJECT_RULES_REVIEW {
        1 metadata OBJECT_META, 2 spec SELF_SUBJECT_RULES_REVIEW_SPEC, 3 status SUBJECT_RULES_REVIEW_STATUS,
    }
    SELF_SUBJECT_RULES_REVIEW_SPEC { 1 namespace text }
    SUBJECT_ACCESS_REVIEW {
        1 metadata OBJECT_META, 2 spec SUBJECT_ACCESS_REVIEW_SPEC, 3 status SUBJECT_ACCESS_REVIEW_STATUS,
    }
    SUBJECT_ACCESS_REVIEW_SPEC {
        1 resourceAttributes (RESOURCE_ATTRIBUTES), 2 nonResourceAttributes (NON_RESOURCE_ATTRIBUTES),
        3 user text, 4 groups [text], 5 extra {strings}, 6 uid text,
    }
    SUBJECT_ACCESS_REVIEW_STATUS { 1 allowed bool, 2 reason text, 3 evaluationError text, 4 denied bool }
    SUBJECT_RULES_REVIEW_STATUS {
        1 resourceRules [RESOURCE_RULE], 2 nonResourceRules [NON_RESOURCE_RULE], 3 incomplete bool,
        4 evaluationError text,
    }

    // === certificates ===
    CERTIFICATE_SIGNING_REQUEST {
        1 metadata OBJECT_META, 2 spec CERTIFICATE_SIGNING_REQUEST_SPEC, 3 status CERTIFICATE_SIGNING_REQUEST_STATUS,
    }
    CERTIFICATE_SIGNING_REQUEST_CONDITION {
        1 type text, 2 reason text, 3 message text, 4 lastUpdateTime time, 5 lastTransitionTime time, 6 status text,
    }
    CERTIFICATE_SIGNING_REQUEST_SPEC {
        1 request bytes, 2 username text, 3 uid text, 4 groups [text], 5 usages [text], 6 extra {strings},
        7 signerName text, 8 expirationSeconds (int),
    }
    CERTIFICATE_SIGNING_REQUEST_STATUS {
        1 conditions [CERTIFICATE_SIGNING_REQUEST_CONDITION], 2 certificate bytes,
    }

    // === coordination ===
    LEASE { 1 metadata OBJECT_META, 2 spec LEASE_SPEC }
    LEASE_SPEC {
        1 holderIdentity (text), 2 leaseDurationSeconds (int), 3 acquireTime micro_time, 4 renewTime micro_time,
        5 leaseTransitions (int), 6 strategy (text), 7 preferredHolder (text),
    }

    // === discovery ===
    ENDPOINT_CONDITIONS { 1 ready (bool), 2 serving (bool), 3 terminating (bool) }
    ENDPOINT_HINTS { 1 forZones [FOR_ZONE], 2 forNodes [FOR_NODE] }
    ENDPOINT_SLICE { 1 metadata OBJECT_META, 2 endpoints [SLICE_ENDPOINT], 3 ports [SLICE_PORT], 4 addressType text }
    FOR_NODE { 1 name text }
    FOR_ZONE { 1 name text }
    SLICE_ENDPOINT {
        1 addresses [text], 2 conditions ENDPOINT_CONDITIONS, 3 hostname (text), 4 targetRef (OBJECT_REFERENCE),
        5 deprecatedTopology {text}, 6 nodeName (text), 7 zone (text), 8 hints (ENDPOINT_HINTS),
    }
    SLICE_PORT { 1 name (text), 2 protocol (text), 3 port (int), 4 appProtocol (text) }

    // === events ===
    NEW_EVENT {
        1 metadata OBJECT_META, 2 eventTime micro_time, 3 series (NEW_EVENT_SERIES), 4 reportingController text,
        5 reportingInstance text, 6 action text, 7 reason text, 8 regarding OBJECT_REFERENCE,
        9 related (OBJECT_REFERENCE), 10 note text, 11 type text, 12 deprecatedSource EVENT_SOURCE,
        13 deprecatedFirstTimestamp time, 14 deprecatedLastTimestamp time, 15 deprecatedCount int,
    }
    NEW_EVENT_SERIES { 1 count int, 2 lastObservedTime micro_time }

    // === networking ===
    IP_BLOCK { 1 cidr text, 2 except [text] }
    NETWORK_POLICY { 1 metadata OBJECT_META, 2 spec NETWORK_POLICY_SPEC }
    NETWORK_POLICY_EGRESS_RULE { 1 ports [NETWORK_POLICY_PORT], 2 to [NETWORK_POLICY_PEER] }
    NETWORK_POLICY_INGRESS_RULE { 1 ports [NETWORK_POLICY_PORT], 2 from [NETWORK_POLICY_PEER] }
    NETWORK_POLICY_PEER { 1 podSelector (LABEL_SELECTOR), 2 namespaceSelector (LABEL_SELECTOR), 3 ipBlock (IP_BLOCK) }
    NETWORK_POLICY_PORT { 1 protocol (text), 2 port (int_or_string), 3 endPort (int) }
    NETWORK_POLICY_SPEC {
        1 podSelector LABEL_SELECTOR, 2 ingress [NETWORK_POLICY_INGRESS_RULE],
        3 egress [NETWORK_POLICY_EGRESS_RULE], 4 policyTypes [text],
    }

    // === node ===
    OVERHEAD { 1 podFixed {quantity} }
    RUNTIME_CLASS { 1 metadata OBJECT_META, 2 handler text, 3 overhead (OVERHEAD), 4 scheduling (SCHEDULING) }
    SCHEDULING { 1 nodeSelector {text}, 2 tolerations [TOLERATION] }

    // === policy ===
    EVICTION { 1 metadata OBJECT_META, 2 deleteOptions (DELETE_OPTIONS) }
    POD_DISRUPTION_BUDGET {
        1 metadata OBJECT_META, 2 spec POD_DISRUPTION_BUDGET_SPEC, 3 status POD_DISRUPTION_BUDGET_STATUS,
    }
    POD_DISRUPTION_BUDGET_SPEC {
        1 minAvailable (int_or_string), 2 selector (LABEL_SELECTOR), 3 maxUnavailable (int_or_string),
        4 unhealthyPodEvictionPolicy (text),
    }
    POD_DISRUPTION_BUDGET_STATUS {
        1 observedGeneration int, 2 disruptedPods {time}, 3 disruptionsAllowed int, 4 currentHealthy int,
        5 desiredHealthy int, 6 expectedPods int, 7 conditions [CONDITION],
    }

    // === rbac ===
    AGGREGATION_RULE { 1 clusterRoleSelectors [LABEL_SELECTOR] }
    CLUSTER_ROLE { 1 metadata OBJECT_META, 2 rules [POLICY_RULE], 3 aggregationRule (AGGREGATION_RULE) }
    CLUSTER_ROLE_BINDING { 1 metadata OBJECT_META, 2 subjects [SUBJECT], 3 roleRef ROLE_REF }
    POLICY_RULE {
        1 verbs [text], 2 apiGroups [text], 3 resources [text], 4 resourceNames [text],
        5 nonResourceURLs [text],
    }
    ROLE { 1 metadata OBJECT_META, 2 rules [POLICY_RULE] }
    ROLE_BINDING { 1 metadata OBJECT_META, 2 subjects [SUBJECT], 3 roleRef ROLE_REF }
    ROLE_REF { 1 apiGroup text, 2 kind text, 3 name text }
    SUBJECT { 1 kind text, 2 apiGroup text, 3 name text, 4 namespace text }

    // === scheduling ===
    PRIORITY_CLASS {
        1 metadata OBJECT_META, 2 value int, 3 globalDefault bool, 4 description text,
        5 preemptionPolicy (text),
    }
}
