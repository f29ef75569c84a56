//! The messages a pod template consists of, of `k8s.io/api/core/v1`.

use super::messages;
use super::meta::{LABEL_SELECTOR, OBJECT_META};

messages! {
    AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE { 1 volumeID text, 2 fsType text, 3 partition int, 4 readOnly bool }
    AFFINITY { 1 nodeAffinity (NODE_AFFINITY), 2 podAffinity (POD_AFFINITY), 3 podAntiAffinity (POD_ANTI_AFFINITY) }
    APP_ARMOR_PROFILE { 1 type text, 2 localhostProfile (text) }
    AZURE_DISK_VOLUME_SOURCE {
        1 diskName text, 2 diskURI text, 3 cachingMode (text), 4 fsType (text), 5 readOnly (bool),
        6 kind (text),
    }
    AZURE_FILE_VOLUME_SOURCE { 1 secretName text, 2 shareName text, 3 readOnly bool }
    CSI_VOLUME_SOURCE {
        1 driver text, 2 readOnly (bool), 3 fsType (text), 4 volumeAttributes {text},
        5 nodePublishSecretRef (LOCAL_OBJECT_REFERENCE),
    }
    CAPABILITIES { 1 add [text], 2 drop [text] }
    CEPH_FS_VOLUME_SOURCE {
        1 monitors [text], 2 path text, 3 user text, 4 secretFile text, 5 secretRef (LOCAL_OBJECT_REFERENCE),
        6 readOnly bool,
    }
    CINDER_VOLUME_SOURCE { 1 volumeID text, 2 fsType text, 3 readOnly bool, 4 secretRef (LOCAL_OBJECT_REFERENCE) }
    CLUSTER_TRUST_BUNDLE_PROJECTION {
        1 name (text), 2 signerName (text), 3 labelSelector (LABEL_SELECTOR), 4 path text, 5 optional (bool),
    }
    CONFIG_MAP_ENV_SOURCE { 1 _ LOCAL_OBJECT_REFERENCE, 2 optional (bool) }
    CONFIG_MAP_KEY_SELECTOR { 1 _ LOCAL_OBJECT_REFERENCE, 2 key text, 3 optional (bool) }
    CONFIG_MAP_PROJECTION { 1 _ LOCAL_OBJECT_REFERENCE, 2 items [KEY_TO_PATH], 4 optional (bool) }
    CONFIG_MAP_VOLUME_SOURCE {
        1 _ LOCAL_OBJECT_REFERENCE, 2 items [KEY_TO_PATH], 3 defaultMode (int), 4 optional (bool),
    }
    CONTAINER {
        1 name text, 2 image text, 3 command [text], 4 args [text], 5 workingDir text, 6 ports [CONTAINER_PORT],
        7 env [ENV_VAR], 8 resources RESOURCE_REQUIREMENTS, 9 volumeMounts [VOLUME_MOUNT],
        10 livenessProbe (PROBE), 11 readinessProbe (PROBE), 12 lifecycle (LIFECYCLE),
        13 terminationMessagePath text, 14 imagePullPolicy text, 15 securityContext (SECURITY_CONTEXT),
        16 stdin bool, 17 stdinOnce bool, 18 tty bool, 19 envFrom [ENV_FROM_SOURCE],
        20 terminationMessagePolicy text, 21 volumeDevices [VOLUME_DEVICE], 22 startupProbe (PROBE),
        23 resizePolicy [CONTAINER_RESIZE_POLICY], 24 restartPolicy (text),
        25 restartPolicyRules [CONTAINER_RESTART_RULE],
    }
    CONTAINER_PORT { 1 name text, 2 hostPort int, 3 containerPort int, 4 protocol text, 5 hostIP text }
    CONTAINER_RESIZE_POLICY { 1 resourceName text, 2 restartPolicy text }
    CONTAINER_RESTART_RULE { 1 action text, 2 exitCodes (CONTAINER_RESTART_RULE_ON_EXIT_CODES) }
    CONTAINER_RESTART_RULE_ON_EXIT_CODES { 1 operator text, 2 values [int] }
    DOWNWARD_API_PROJECTION { 1 items [DOWNWARD_API_VOLUME_FILE] }
    DOWNWARD_API_VOLUME_FILE {
        1 path text, 2 fieldRef (OBJECT_FIELD_SELECTOR), 3 resourceFieldRef (RESOURCE_FIELD_SELECTOR),
        4 mode (int),
    }
    DOWNWARD_API_VOLUME_SOURCE { 1 items [DOWNWARD_API_VOLUME_FILE], 2 defaultMode (int) }
    EMPTY_DIR_VOLUME_SOURCE { 1 medium text, 2 sizeLimit (quantity) }
    ENV_FROM_SOURCE { 1 prefix text, 2 configMapRef (CONFIG_MAP_ENV_SOURCE), 3 secretRef (SECRET_ENV_SOURCE) }
    ENV_VAR { 1 name text, 2 value text, 3 valueFrom (ENV_VAR_SOURCE) }
    ENV_VAR_SOURCE {
        1 fieldRef (OBJECT_FIELD_SELECTOR), 2 resourceFieldRef (RESOURCE_FIELD_SELECTOR),
        3 configMapKeyRef (CONFIG_MAP_KEY_SELECTOR), 4 secretKeyRef (SECRET_KEY_SELECTOR),
        5 fileKeyRef (FILE_KEY_SELECTOR),
    }
    EPHEMERAL_CONTAINER { 1 _ EPHEMERAL_CONTAINER_COMMON, 2 targetContainerName text }
    EPHEMERAL_CONTAINER_COMMON {
        1 name text, 2 image text, 3 command [text], 4 args [text], 5 workingDir text, 6 ports [CONTAINER_PORT],
        7 env [ENV_VAR], 8 resources RESOURCE_REQUIREMENTS, 9 volumeMounts [VOLUME_MOUNT],
        10 livenessProbe (PROBE), 11 readinessProbe (PROBE), 12 lifecycle (LIFECYCLE),
        13 terminationMessagePath text, 14 imagePullPolicy text, 15 securityContext (SECURITY_CONTEXT),
        16 stdin bool, 17 stdinOnce bool, 18 tty bool, 19 envFrom [ENV_FROM_SOURCE],
        20 terminationMessagePolicy text, 21 volumeDevices [VOLUME_DEVICE], 22 startupProbe (PROBE),
        23 resizePolicy [CONTAINER_RESIZE_POLICY], 24 restartPolicy (text),
        25 restartPolicyRules [CONTAINER_RESTART_RULE],
    }
    EPHEMERAL_VOLUME_SOURCE { 1 volumeClaimTemplate (PERSISTENT_VOLUME_CLAIM_TEMPLATE) }
    EXEC_ACTION { 1 command [text] }
    FC_VOLUME_SOURCE { 1 targetWWNs [text], 2 lun (int), 3 fsType text, 4 readOnly bool, 5 wwids [text] }
    FILE_KEY_SELECTOR { 1 volumeName text, 2 path text, 3 key text, 4 optional (bool) }
    FLEX_VOLUME_SOURCE {
        1 driver text, 2 fsType text, 3 secretRef (LOCAL_OBJECT_REFERENCE), 4 readOnly bool, 5 options {text},
    }
    FLOCKER_VOLUME_SOURCE { 1 datasetName text, 2 datasetUUID text }
    GCE_PERSISTENT_DISK_VOLUME_SOURCE { 1 pdName text, 2 fsType text, 3 partition int, 4 readOnly bool }
    GRPC_ACTION { 1 port int, 2 service (text) }
    GIT_REPO_VOLUME_SOURCE { 1 repository text, 2 revision text, 3 directory text }
    GLUSTERFS_VOLUME_SOURCE { 1 endpoints text, 2 path text, 3 readOnly bool }
    HTTP_GET_ACTION { 1 path text, 2 port int_or_string, 3 host text, 4 scheme text, 5 httpHeaders [HTTP_HEADER] }
    HTTP_HEADER { 1 name text, 2 value text }
    HOST_ALIAS { 1 ip text, 2 hostnames [text] }
    HOST_PATH_VOLUME_SOURCE { 1 path text, 2 type (text) }
    ISCSI_VOLUME_SOURCE {
        1 targetPortal text, 2 iqn text, 3 lun int, 4 iscsiInterface text, 5 fsType text, 6 readOnly bool,
        7 portals [text], 8 chapAuthDiscovery bool, 10 secretRef (LOCAL_OBJECT_REFERENCE),
        11 chapAuthSession bool, 12 initiatorName (text),
    }
    IMAGE_VOLUME_SOURCE { 1 reference text, 2 pullPolicy text }
    KEY_TO_PATH { 1 key text, 2 path text, 3 mode (int) }
    LIFECYCLE { 1 postStart (LIFECYCLE_HANDLER), 2 preStop (LIFECYCLE_HANDLER), 3 stopSignal (text) }
    LIFECYCLE_HANDLER {
        1 exec (EXEC_ACTION), 2 httpGet (HTTP_GET_ACTION), 3 tcpSocket (TCP_SOCKET_ACTION),
        4 sleep (SLEEP_ACTION),
    }
    LOCAL_OBJECT_REFERENCE { 1 name text }
    NFS_VOLUME_SOURCE { 1 server text, 2 path text, 3 readOnly bool }
    NODE_AFFINITY {
        1 requiredDuringSchedulingIgnoredDuringExecution (NODE_SELECTOR),
        2 preferredDuringSchedulingIgnoredDuringExecution [PREFERRED_SCHEDULING_TERM],
    }
    NODE_SELECTOR { 1 nodeSelectorTerms [NODE_SELECTOR_TERM] }
    NODE_SELECTOR_REQUIREMENT { 1 key text, 2 operator text, 3 values [text] }
    NODE_SELECTOR_TERM { 1 matchExpressions [NODE_SELECTOR_REQUIREMENT], 2 matchFields [NODE_SELECTOR_REQUIREMENT] }
    OBJECT_FIELD_SELECTOR { 1 apiVersion text, 2 fieldPath text }
    PERSISTENT_VOLUME_CLAIM_SPEC {
        1 accessModes [text], 2 resources VOLUME_RESOURCE_REQUIREMENTS, 3 volumeName text,
        4 selector (LABEL_SELECTOR), 5 storageClassName (text), 6 volumeMode (text),
        7 dataSource (TYPED_LOCAL_OBJECT_REFERENCE), 8 dataSourceRef (TYPED_OBJECT_REFERENCE),
        9 volumeAttributesClassName (text),
    }
    PERSISTENT_VOLUME_CLAIM_TEMPLATE { 1 metadata OBJECT_META, 2 spec PERSISTENT_VOLUME_CLAIM_SPEC }
    PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE { 1 claimName text, 2 readOnly bool }
    PHOTON_PERSISTENT_DISK_VOLUME_SOURCE { 1 pdID text, 2 fsType text }
    POD_AFFINITY {
        1 requiredDuringSchedulingIgnoredDuringExecution [POD_AFFINITY_TERM],
        2 preferredDuringSchedulingIgnoredDuringExecution [WEIGHTED_POD_AFFINITY_TERM],
    }
    POD_AFFINITY_TERM {
        1 labelSelector (LABEL_SELECTOR), 2 namespaces [text], 3 topologyKey text,
        4 namespaceSelector (LABEL_SELECTOR), 5 matchLabelKeys [text], 6 mismatchLabelKeys [text],
    }
    POD_ANTI_AFFINITY {
        1 requiredDuringSchedulingIgnoredDuringExecution [POD_AFFINITY_TERM],
        2 preferredDuringSchedulingIgnoredDuringExecution [WEIGHTED_POD_AFFINITY_TERM],
    }
    POD_CERTIFICATE_PROJECTION {
        1 signerName text, 2 keyType text, 3 maxExpirationSeconds (int), 4 credentialBundlePath text,
        5 keyPath text, 6 certificateChainPath text, 7 userAnnotations {text},
    }
    POD_DNS_CONFIG { 1 nameservers [text], 2 searches [text], 3 options [POD_DNS_CONFIG_OPTION] }
    POD_DNS_CONFIG_OPTION { 1 name text, 2 value (text) }
    POD_OS { 1 name text }
    POD_READINESS_GATE { 1 conditionType text }
    POD_RESOURCE_CLAIM { 1 name text, 3 resourceClaimName (text), 4 resourceClaimTemplateName (text) }
    POD_SCHEDULING_GATE { 1 name text }
    POD_SCHEDULING_GROUP { 1 podGroupName (text) }
    POD_SECURITY_CONTEXT {
        1 seLinuxOptions (SE_LINUX_OPTIONS), 2 runAsUser (int), 3 runAsNonRoot (bool),
        4 supplementalGroups [int], 5 fsGroup (int), 6 runAsGroup (int), 7 sysctls [SYSCTL],
        8 windowsOptions (WINDOWS_SECURITY_CONTEXT_OPTIONS), 9 fsGroupChangePolicy (text),
        10 seccompProfile (SECCOMP_PROFILE), 11 appArmorProfile (APP_ARMOR_PROFILE),
        12 supplementalGroupsPolicy (text), 13 seLinuxChangePolicy (text),
    }
    POD_SPEC {
        1 volumes [VOLUME], 2 containers [CONTAINER], 3 restartPolicy text,
        4 terminationGracePeriodSeconds (int), 5 activeDeadlineSeconds (int), 6 dnsPolicy text,
        7 nodeSelector {text}, 8 serviceAccountName text, 9 serviceAccount text, 10 nodeName text,
        11 hostNetwork bool, 12 hostPID bool, 13 hostIPC bool, 14 securityContext (POD_SECURITY_CONTEXT),
        15 imagePullSecrets [LOCAL_OBJECT_REFERENCE], 16 hostname text, 17 subdomain text,
        18 affinity (AFFINITY), 19 schedulerName text, 20 initContainers [CONTAINER],
        21 automountServiceAccountToken (bool), 22 tolerations [TOLERATION], 23 hostAliases [HOST_ALIAS],
        24 priorityClassName text, 25 priority (int), 26 dnsConfig (POD_DNS_CONFIG),
        27 shareProcessNamespace (bool), 28 readinessGates [POD_READINESS_GATE], 29 runtimeClassName (text),
        30 enableServiceLinks (bool), 31 preemptionPolicy (text), 32 overhead {quantity},
        33 topologySpreadConstraints [TOPOLOGY_SPREAD_CONSTRAINT], 34 ephemeralContainers [EPHEMERAL_CONTAINER],
        35 setHostnameAsFQDN (bool), 36 os (POD_OS), 37 hostUsers (bool),
        38 schedulingGates [POD_SCHEDULING_GATE], 39 resourceClaims [POD_RESOURCE_CLAIM],
        40 resources (RESOURCE_REQUIREMENTS), 41 hostnameOverride (text),
        43 schedulingGroup (POD_SCHEDULING_GROUP),
    }
    POD_TEMPLATE_SPEC { 1 metadata OBJECT_META, 2 spec POD_SPEC }
    PORTWORX_VOLUME_SOURCE { 1 volumeID text, 2 fsType text, 3 readOnly bool }
    PREFERRED_SCHEDULING_TERM { 1 weight int, 2 preference NODE_SELECTOR_TERM }
    PROBE {
        1 _ PROBE_HANDLER, 2 initialDelaySeconds int, 3 timeoutSeconds int, 4 periodSeconds int,
        5 successThreshold int, 6 failureThreshold int, 7 terminationGracePeriodSeconds (int),
    }
    PROBE_HANDLER {
        1 exec (EXEC_ACTION), 2 httpGet (HTTP_GET_ACTION), 3 tcpSocket (TCP_SOCKET_ACTION),
        4 grpc (GRPC_ACTION),
    }
    PROJECTED_VOLUME_SOURCE { 1 sources [VOLUME_PROJECTION], 2 defaultMode (int) }
    QUOBYTE_VOLUME_SOURCE { 1 registry text, 2 volume text, 3 readOnly bool, 4 user text, 5 group text, 6 tenant text }
    RBD_VOLUME_SOURCE {
        1 monitors [text], 2 image text, 3 fsType text, 4 pool text, 5 user text, 6 keyring text,
        7 secretRef (LOCAL_OBJECT_REFERENCE), 8 readOnly bool,
    }
    RESOURCE_CLAIM { 1 name text, 2 request text }
    RESOURCE_FIELD_SELECTOR { 1 containerName text, 2 resource text, 3 divisor quantity }
    RESOURCE_REQUIREMENTS { 1 limits {quantity}, 2 requests {quantity}, 3 claims [RESOURCE_CLAIM] }
    SE_LINUX_OPTIONS { 1 user text, 2 role text, 3 type text, 4 level text }
    SCALE_IO_VOLUME_SOURCE {
        1 gateway text, 2 system text, 3 secretRef (LOCAL_OBJECT_REFERENCE), 4 sslEnabled bool,
        5 protectionDomain text, 6 storagePool text, 7 storageMode text, 8 volumeName text, 9 fsType text,
        10 readOnly bool,
    }
    SECCOMP_PROFILE { 1 type text, 2 localhostProfile (text) }
    SECRET_ENV_SOURCE { 1 _ LOCAL_OBJECT_REFERENCE, 2 optional (bool) }
    SECRET_KEY_SELECTOR { 1 _ LOCAL_OBJECT_REFERENCE, 2 key text, 3 optional (bool) }
    SECRET_PROJECTION { 1 _ LOCAL_OBJECT_REFERENCE, 2 items [KEY_TO_PATH], 4 optional (bool) }
    SECRET_VOLUME_SOURCE { 1 secretName text, 2 items [KEY_TO_PATH], 3 defaultMode (int), 4 optional (bool) }
    SECURITY_CONTEXT {
        1 capabilities (CAPABILITIES), 2 privileged (bool), 3 seLinuxOptions (SE_LINUX_OPTIONS),
        4 runAsUser (int), 5 runAsNonRoot (bool), 6 readOnlyRootFilesystem (bool),
        7 allowPrivilegeEscalation (bool), 8 runAsGroup (int), 9 procMount (text),
        10 windowsOptions (WINDOWS_SECURITY_CONTEXT_OPTIONS), 11 seccompProfile (SECCOMP_PROFILE),
        12 appArmorProfile (APP_ARMOR_PROFILE),
    }
    SERVICE_ACCOUNT_TOKEN_PROJECTION { 1 audience text, 2 expirationSeconds (int), 3 path text }
    SLEEP_ACTION { 1 seconds int }
    STORAGE_OS_VOLUME_SOURCE {
        1 volumeName text, 2 volumeNamespace text, 3 fsType text, 4 readOnly bool,
        5 secretRef (LOCAL_OBJECT_REFERENCE),
    }
    SYSCTL { 1 name text, 2 value text }
    TCP_SOCKET_ACTION { 1 port int_or_string, 2 host text }
    TOLERATION { 1 key text, 2 operator text, 3 value text, 4 effect text, 5 tolerationSeconds (int) }
    TOPOLOGY_SPREAD_CONSTRAINT {
        1 maxSkew int, 2 topologyKey text, 3 whenUnsatisfiable text, 4 labelSelector (LABEL_SELECTOR),
        5 minDomains (int), 6 nodeAffinityPolicy (text), 7 nodeTaintsPolicy (text), 8 matchLabelKeys [text],
    }
    TYPED_LOCAL_OBJECT_REFERENCE { 1 apiGroup (text), 2 kind text, 3 name text }
    TYPED_OBJECT_REFERENCE { 1 apiGroup (text), 2 kind text, 3 name text, 4 namespace (text) }
    VOLUME { 1 name text, 2 _ VOLUME_SOURCE }
    VOLUME_DEVICE { 1 name text, 2 devicePath text }
    VOLUME_MOUNT {
        1 name text, 2 readOnly bool, 3 mountPath text, 4 subPath text, 5 mountPropagation (text),
        6 subPathExpr text, 7 recursiveReadOnly (text),
    }
    VOLUME_PROJECTION {
        1 secret (SECRET_PROJECTION), 2 downwardAPI (DOWNWARD_API_PROJECTION),
        3 configMap (CONFIG_MAP_PROJECTION), 4 serviceAccountToken (SERVICE_ACCOUNT_TOKEN_PROJECTION),
        5 clusterTrustBundle (CLUSTER_TRUST_BUNDLE_PROJECTION), 6 podCertificate (POD_CERTIFICATE_PROJECTION),
    }
    VOLUME_RESOURCE_REQUIREMENTS { 1 limits {quantity}, 2 requests {quantity} }
    VOLUME_SOURCE {
        1 hostPath (HOST_PATH_VOLUME_SOURCE), 2 emptyDir (EMPTY_DIR_VOLUME_SOURCE),
        3 gcePersistentDisk (GCE_PERSISTENT_DISK_VOLUME_SOURCE),
        4 awsElasticBlockStore (AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE), 5 gitRepo (GIT_REPO_VOLUME_SOURCE),
        6 secret (SECRET_VOLUME_SOURCE), 7 nfs (NFS_VOLUME_SOURCE), 8 iscsi (ISCSI_VOLUME_SOURCE),
        9 glusterfs (GLUSTERFS_VOLUME_SOURCE), 10 persistentVolumeClaim (PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE),
        11 rbd (RBD_VOLUME_SOURCE), 12 flexVolume (FLEX_VOLUME_SOURCE), 13 cinder (CINDER_VOLUME_SOURCE),
        14 cephfs (CEPH_FS_VOLUME_SOURCE), 15 flocker (FLOCKER_VOLUME_SOURCE),
        16 downwardAPI (DOWNWARD_API_VOLUME_SOURCE), 17 fc (FC_VOLUME_SOURCE),
        18 azureFile (AZURE_FILE_VOLUME_SOURCE), 19 configMap (CONFIG_MAP_VOLUME_SOURCE),
        20 vsphereVolume (VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE), 21 quobyte (QUOBYTE_VOLUME_SOURCE),
        22 azureDisk (AZURE_DISK_VOLUME_SOURCE), 23 photonPersistentDisk (PHOTON_PERSISTENT_DISK_VOLUME_SOURCE),
        24 portworxVolume (PORTWORX_VOLUME_SOURCE), 25 scaleIO (SCALE_IO_VOLUME_SOURCE),
        26 projected (PROJECTED_VOLUME_SOURCE), 27 storageos (STORAGE_OS_VOLUME_SOURCE),
        28 csi (CSI_VOLUME_SOURCE), 29 ephemeral (EPHEMERAL_VOLUME_SOURCE), 30 image (IMAGE_VOLUME_SOURCE),
    }
    VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE {
        1 volumePath text, 2 fsType text, 3 storagePolicyName text, 4 storagePolicyID text,
    }
    WEIGHTED_POD_AFFINITY_TERM { 1 weight int, 2 podAffinityTerm POD_AFFINITY_TERM }
    WINDOWS_SECURITY_CONTEXT_OPTIONS {
        1 gmsaCredentialSpecName (text), 2 gmsaCredentialSpec (text), 3 runAsUserName (text),
        4 hostProcess (bool),
    }
}
