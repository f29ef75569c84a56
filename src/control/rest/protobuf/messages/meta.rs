//! The messages of `k8s.io/apimachinery/pkg/apis/meta/v1`.

use super::messages;

messages! {
    CONDITION {
        1 type text, 2 status text, 3 observedGeneration int, 4 lastTransitionTime time, 5 reason text,
        6 message text,
    }
    DELETE_OPTIONS {
        1 gracePeriodSeconds (int), 2 preconditions (PRECONDITIONS), 3 orphanDependents (bool),
        4 propagationPolicy (text), 5 dryRun [text], 6 ignoreStoreReadErrorWithClusterBreakingPotential (bool),
    }
    FIELD_SELECTOR_REQUIREMENT { 1 key text, 2 operator text, 3 values [text] }
    LABEL_SELECTOR { 1 matchLabels {text}, 2 matchExpressions [LABEL_SELECTOR_REQUIREMENT] }
    LABEL_SELECTOR_REQUIREMENT { 1 key text, 2 operator text, 3 values [text] }
    MANAGED_FIELDS_ENTRY {
        1 manager text, 2 operation text, 3 apiVersion text, 4 time time, 6 fieldsType text, 7 fieldsV1 (json),
        8 subresource text,
    }
    OBJECT_META {
        1 name text, 2 generateName text, 3 namespace text, 4 selfLink text, 5 uid text, 6 resourceVersion text,
        7 generation int, 8 creationTimestamp time, 9 deletionTimestamp time,
        10 deletionGracePeriodSeconds (int), 11 labels {text}, 12 annotations {text},
        13 ownerReferences [OWNER_REFERENCE], 14 finalizers [text], 17 managedFields [MANAGED_FIELDS_ENTRY],
    }
    OWNER_REFERENCE {
        1 kind text, 3 name text, 4 uid text, 5 apiVersion text, 6 controller (bool),
        7 blockOwnerDeletion (bool),
    }
    PRECONDITIONS { 1 uid (text), 2 resourceVersion (text) }
}
