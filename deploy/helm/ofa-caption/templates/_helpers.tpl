{{- define "ofa.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* What selects the servers, or the proxies: (list root "server"). */}}
{{- define "ofa.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "ofa.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* The launcher drains for `stop` seconds, and kills the server 10 later; 5 are for the container itself. */}}
{{- define "ofa.gracePeriod" -}}
{{ add .Values.timing.preStop .Values.timing.stop 15 }}
{{- end }}

{{- define "ofa.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "ofa.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "ofa.environment" -}}
- name: OFA_NAMES
  value: {{ join " " .Values.models | quote }}
- name: OFA_START_TIMEOUT
  value: {{ int64 .Values.timing.start | quote }}
- name: OFA_STOP_TIMEOUT
  value: {{ int64 .Values.timing.stop | quote }}
{{- with .Values.encodedImageCache }}
- name: OFA_CACHE_MIB
  value: {{ int64 . | quote }}
{{- end }}
- name: OFA_LOG_FORMAT
  value: {{ .Values.logging.format }}
- name: OFA_REQUEST_LOG
  value: {{ .Values.logging.requests | quote }}
{{- with .Values.tracing.url }}
- name: OFA_TRACE_URL
  value: {{ . | quote }}
- name: OFA_TRACE_EVERY
  value: {{ int64 $.Values.tracing.every | quote }}
{{- end }}
{{- with .Values.extraEnvironment }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Ready is Triton's own word, asked often. Whether it captions is asked of the server itself: a model's process
       that has died leaves Triton ready. A server that is busy passes.
       The probe takes 19 s at most, and Python its start.
       Before the launcher's own `start` seconds begin it reads all files, for which the startup probe leaves a minute:
       so the launcher is the one that gives up, and says why.
       A Triton that dies or hangs is started again in place by the launcher's own watch, while the readiness probe
       keeps traffic away; its models get `start` seconds then, after up to 30 of back-off. The liveness probe is for a
       launcher that does not manage that: sooner, it would end every start that outlasts its patience. */}}
{{- define "ofa.probes" -}}
startupProbe:
  exec:
    command: [ofa-probe]
  periodSeconds: 5
  timeoutSeconds: 20
  failureThreshold: {{ div (add .Values.timing.start 60 4) 5 }}
readinessProbe:
  httpGet:
    path: /v2/health/ready
    port: http
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  exec:
    command: [ofa-probe]
  periodSeconds: 20
  timeoutSeconds: 20
  failureThreshold: {{ div (add .Values.timing.start 30 19) 20 }}
{{- end }}

{{- /* A quantity of memory in MiB; 0 for none, or in a unit that nobody gives a server's memory in. */}}
{{- define "ofa.mebibytes" -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $units := dict "Mi" 1.0 "Gi" 1024.0 "Ti" 1048576.0 "M" 0.9537 "G" 953.7 -}}
{{- mulf ($number | default 0 | float64) (get $units (trimPrefix $number .) | default 0.0) -}}
{{- end }}

{{- /* What lies in memory by the values leaves the models and the server as much. */}}
{{- define "ofa.checkMemory" -}}
{{- $limit := dig "limits" "memory" "" (index .Values.resources .Values.profile) | toString -}}
{{- $mebibytes := include "ofa.mebibytes" $limit | float64 -}}
{{- $held := add .Values.sharedMemory.sizeMiB .Values.encodedImageCache -}}
{{- if and $mebibytes (gt (mulf 2 $held) $mebibytes) -}}
{{- fail (printf "sharedMemory.sizeMiB and encodedImageCache, %d MiB, are more than half of resources.%s.limits.memory, %s" $held .Values.profile $limit) -}}
{{- end -}}
{{- end }}

{{- /* What values.schema.json cannot tell. The API server would refuse it in part, once the rest has been changed. */}}
{{- define "ofa.checkValues" -}}
{{- /* Services are called by it, and pods, whose names Kubernetes cuts: queries and alerts know them by it. */}}
{{- if and .Release.IsInstall (not (regexMatch "^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$" .Release.Name)) -}}
{{- fail (printf "the release's name, %s, is not one of at most 50 small letters, digits and dashes that begins with a letter" .Release.Name) -}}
{{- end -}}
{{- with .Values.autoscaling }}
{{- if and (or .enabled (eq $.Values.mode "kserve")) (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas, %d, is more than autoscaling.maxReplicas, %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.strategy }}
{{- if and (regexMatch "^0+%?$" (toString .maxSurge)) (regexMatch "^0+%?$" (toString .maxUnavailable)) -}}
{{- fail "strategy.maxSurge and strategy.maxUnavailable are both 0: no server could ever be replaced" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "ofa.scratchVolumes" -}}
{{- include "ofa.checkMemory" . -}}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.sharedMemory.sizeMiB }}Mi
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- end }}

{{- define "ofa.scratchMounts" -}}
- name: shared-memory
  mountPath: /dev/shm
- name: tmp
  mountPath: /tmp
{{- end }}

{{- define "ofa.modelVolume" -}}
{{- with .Values.modelVolume }}
{{- if eq .kind "pvc" -}}
persistentVolumeClaim:
  claimName: {{ .pvc.claimName }}
  readOnly: true
{{- else if eq .kind "s3" -}}
emptyDir:
  sizeLimit: {{ .s3.sizeLimit }}
{{- else -}}
image:
  reference: {{ .image.reference }}
  pullPolicy: {{ .image.pullPolicy }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Names are asked of whoever answers: beside kube-dns there are caches on the nodes, clouds' own servers, and
       OpenShift's pods at 5353. */}}
{{- define "ofa.dnsEgress" -}}
- ports:
    {{- range list 53 5353 }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
    {{- end }}
{{- end }}

{{- define "ofa.imagePullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The port of a bucket's endpoint, a URL; without one it is AWS's. */}}
{{- define "ofa.endpointPort" -}}
{{- $url := urlParse . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end }}

{{- /* All servers of the release, for KEDA's queries. */}}
{{- define "ofa.podMatch" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ .Release.Name }}-server-.*"
{{- end }}
