//! The other messages of `k8s.io/api/core/v1`.

use super::messages;
use super::meta::{CONDITION, OBJECT_META};
use super::pod::{LOCAL_OBJECT_REFERENCE, POD_SPEC, RESOURCE_REQUIREMENTS};

messages! {
    ATTACHED_VOLUME { 1 name text, 2 devicePath text }
    BINDING { 1 metadata OBJECT_META, 2 target OBJECT_REFERENCE }
    CLIENT_IP_CONFIG { 1 timeoutSeconds (int) }
    CONFIG_MAP { 1 metadata OBJECT_META, 2 data {text}, 3 binaryData {bytes}, 4 immutable (bool) }
    CONFIG_MAP_NODE_CONFIG_SOURCE {
        1 namespace text, 2 name text, 3 uid text, 4 resourceVersion text, 5 kubeletConfigKey text,
    }
    CONTAINER_EXTENDED_RESOURCE_REQUEST { 1 containerName text, 2 resourceName text, 3 requestName text }
    CONTAINER_IMAGE { 1 names [text], 2 sizeBytes int }
    CONTAINER_STATE {
        1 waiting (CONTAINER_STATE_WAITING), 2 running (CONTAINER_STATE_RUNNING),
        3 terminated (CONTAINER_STATE_TERMINATED),
    }
    CONTAINER_STATE_RUNNING { 1 startedAt time }
    CONTAINER_STATE_TERMINATED {
        1 exitCode int, 2 signal int, 3 reason text, 4 message text, 5 startedAt time, 6 finishedAt time,
        7 containerID text,
    }
    CONTAINER_STATE_WAITING { 1 reason text, 2 message text }
    CONTAINER_STATUS {
        1 name text, 2 state CONTAINER_STATE, 3 lastState CONTAINER_STATE, 4 ready bool, 5 restartCount int,
        6 image text, 7 imageID text, 8 containerID text, 9 started (bool), 10 allocatedResources {quantity},
        11 resources (RESOURCE_REQUIREMENTS), 12 volumeMounts [VOLUME_MOUNT_STATUS], 13 user (CONTAINER_USER),
        14 allocatedResourcesStatus [RESOURCE_STATUS], 15 stopSignal (text),
    }
    CONTAINER_USER { 1 linux (LINUX_CONTAINER_USER) }
    DAEMON_ENDPOINT { 1 Port int }
    ENDPOINT_ADDRESS { 1 ip text, 2 targetRef (OBJECT_REFERENCE), 3 hostname text, 4 nodeName (text) }
    ENDPOINT_PORT { 1 name text, 2 port int, 3 protocol text, 4 appProtocol (text) }
    ENDPOINT_SUBSET { 1 addresses [ENDPOINT_ADDRESS], 2 notReadyAddresses [ENDPOINT_ADDRESS], 3 ports [ENDPOINT_PORT] }
    ENDPOINTS { 1 metadata OBJECT_META, 2 subsets [ENDPOINT_SUBSET] }
    EVENT {
        1 metadata OBJECT_META, 2 involvedObject OBJECT_REFERENCE, 3 reason text, 4 message text,
        5 source EVENT_SOURCE, 6 firstTimestamp time, 7 lastTimestamp time, 8 count int, 9 type text,
        10 eventTime micro_time, 11 series (EVENT_SERIES), 12 action text, 13 related (OBJECT_REFERENCE),
        14 reportingComponent text, 15 reportingInstance text,
    }
    EVENT_SERIES { 1 count int, 2 lastObservedTime micro_time }
    EVENT_SOURCE { 1 component text, 2 host text }
    HOST_IP { 1 ip text }
    IMAGE_VOLUME_STATUS { 1 imageRef text }
    LINUX_CONTAINER_USER { 1 uid int, 2 gid int, 3 supplementalGroups [int] }
    LOAD_BALANCER_INGRESS { 1 ip text, 2 hostname text, 3 ipMode (text), 4 ports [PORT_STATUS] }
    LOAD_BALANCER_STATUS { 1 ingress [LOAD_BALANCER_INGRESS] }
    NAMESPACE { 1 metadata OBJECT_META, 2 spec NAMESPACE_SPEC, 3 status NAMESPACE_STATUS }
    NAMESPACE_CONDITION { 1 type text, 2 status text, 4 lastTransitionTime time, 5 reason text, 6 message text }
    NAMESPACE_SPEC { 1 finalizers [text] }
    NAMESPACE_STATUS { 1 phase text, 2 conditions [NAMESPACE_CONDITION] }
    NODE { 1 metadata OBJECT_META, 2 spec NODE_SPEC, 3 status NODE_STATUS }
    NODE_ADDRESS { 1 type text, 2 address text }
    NODE_ALLOCATABLE_RESOURCE_CLAIM_STATUS { 1 resourceClaimName text, 2 containers [text], 3 resources {quantity} }
    NODE_CONDITION {
        1 type text, 2 status text, 3 lastHeartbeatTime time, 4 lastTransitionTime time, 5 reason text,
        6 message text,
    }
    NODE_CONFIG_SOURCE { 2 configMap (CONFIG_MAP_NODE_CONFIG_SOURCE) }
    NODE_CONFIG_STATUS {
        1 assigned (NODE_CONFIG_SOURCE), 2 active (NODE_CONFIG_SOURCE), 3 lastKnownGood (NODE_CONFIG_SOURCE),
        4 error text,
    }
    NODE_DAEMON_ENDPOINTS { 1 kubeletEndpoint DAEMON_ENDPOINT }
    NODE_FEATURES { 1 supplementalGroupsPolicy (bool) }
    NODE_RUNTIME_HANDLER { 1 name text, 2 features (NODE_RUNTIME_HANDLER_FEATURES) }
    NODE_RUNTIME_HANDLER_FEATURES { 1 recursiveReadOnlyMounts (bool), 2 userNamespaces (bool) }
    NODE_SPEC {
        1 podCIDR text, 2 externalID text, 3 providerID text, 4 unschedulable bool, 5 taints [TAINT],
        6 configSource (NODE_CONFIG_SOURCE), 7 podCIDRs [text],
    }
    NODE_STATUS {
        1 capacity {quantity}, 2 allocatable {quantity}, 3 phase text, 4 conditions [NODE_CONDITION],
        5 addresses [NODE_ADDRESS], 6 daemonEndpoints NODE_DAEMON_ENDPOINTS, 7 nodeInfo NODE_SYSTEM_INFO,
        8 images [CONTAINER_IMAGE], 9 volumesInUse [text], 10 volumesAttached [ATTACHED_VOLUME],
        11 config (NODE_CONFIG_STATUS), 12 runtimeHandlers [NODE_RUNTIME_HANDLER], 13 features (NODE_FEATURES),
        14 declaredFeatures [text],
    }
    NODE_SWAP_STATUS { 1 capacity (int) }
    NODE_SYSTEM_INFO {
        1 machineID text, 2 systemUUID text, 3 bootID text, 4 kernelVersion text, 5 osImage text,
        6 containerRuntimeVersion text, 7 kubeletVersion text, 8 kubeProxyVersion text, 9 operatingSystem text,
        10 architecture text, 11 swap (NODE_SWAP_STATUS),
    }
    OBJECT_REFERENCE {
        1 kind text, 2 namespace text, 3 name text, 4 uid text, 5 apiVersion text, 6 resourceVersion text,
        7 fieldPath text,
    }
    POD { 1 metadata OBJECT_META, 2 spec POD_SPEC, 3 status POD_STATUS }
    POD_CONDITION {
        1 type text, 2 status text, 3 lastProbeTime time, 4 lastTransitionTime time, 5 reason text,
        6 message text, 7 observedGeneration int,
    }
    POD_EXTENDED_RESOURCE_CLAIM_STATUS {
        1 requestMappings [CONTAINER_EXTENDED_RESOURCE_REQUEST], 2 resourceClaimName text,
    }
    POD_IP { 1 ip text }
    POD_RESOURCE_CLAIM_STATUS { 1 name text, 2 resourceClaimName (text) }
    POD_STATUS {
        1 phase text, 2 conditions [POD_CONDITION], 3 message text, 4 reason text, 5 hostIP text, 6 podIP text,
        7 startTime time, 8 containerStatuses [CONTAINER_STATUS], 9 qosClass text,
        10 initContainerStatuses [CONTAINER_STATUS], 11 nominatedNodeName text, 12 podIPs [POD_IP],
        13 ephemeralContainerStatuses [CONTAINER_STATUS], 14 resize text,
        15 resourceClaimStatuses [POD_RESOURCE_CLAIM_STATUS], 16 hostIPs [HOST_IP], 17 observedGeneration int,
        18 extendedResourceClaimStatus (POD_EXTENDED_RESOURCE_CLAIM_STATUS), 19 allocatedResources {quantity},
        20 resources (RESOURCE_REQUIREMENTS),
        21 nodeAllocatableResourceClaimStatuses [NODE_ALLOCATABLE_RESOURCE_CLAIM_STATUS],
    }
    PORT_STATUS { 1 port int, 2 protocol text, 3 error (text) }
    RESOURCE_HEALTH { 1 resourceID text, 2 health text, 6 message (text) }
    RESOURCE_STATUS { 1 name text, 2 resources [RESOURCE_HEALTH] }
    SECRET { 1 metadata OBJECT_META, 2 data {bytes}, 3 type text, 4 stringData {text}, 5 immutable (bool) }
    SERVICE { 1 metadata OBJECT_META, 2 spec SERVICE_SPEC, 3 status SERVICE_STATUS }
    SERVICE_ACCOUNT {
        1 metadata OBJECT_META, 2 secrets [OBJECT_REFERENCE], 3 imagePullSecrets [LOCAL_OBJECT_REFERENCE],
        4 automountServiceAccountToken (bool),
    }
    SERVICE_PORT {
        1 name text, 2 protocol text, 3 port int, 4 targetPort int_or_string, 5 nodePort int,
        6 appProtocol (text),
    }
    SERVICE_SPEC {
        1 ports [SERVICE_PORT], 2 selector {text}, 3 clusterIP text, 4 type text, 5 externalIPs [text],
        7 sessionAffinity text, 8 loadBalancerIP text, 9 loadBalancerSourceRanges [text], 10 externalName text,
        11 externalTrafficPolicy text, 12 healthCheckNodePort int, 13 publishNotReadyAddresses bool,
        14 sessionAffinityConfig (SESSION_AFFINITY_CONFIG), 17 ipFamilyPolicy (text), 18 clusterIPs [text],
        19 ipFamilies [text], 20 allocateLoadBalancerNodePorts (bool), 21 loadBalancerClass (text),
        22 internalTrafficPolicy (text), 23 trafficDistribution (text),
    }
    SERVICE_STATUS { 1 loadBalancer LOAD_BALANCER_STATUS, 2 conditions [CONDITION] }
    SESSION_AFFINITY_CONFIG { 1 clientIP (CLIENT_IP_CONFIG) }
    TAINT { 1 key text, 2 value text, 3 effect text, 4 timeAdded time }
    VOLUME_MOUNT_STATUS {
        1 name text, 2 mountPath text, 3 readOnly bool, 4 recursiveReadOnly (text),
        5 volumeStatus (VOLUME_STATUS),
    }
    VOLUME_STATUS { 1 image (IMAGE_VOLUME_STATUS) }
}
