{{- /* The proxy's configuration is deploy/proxy, which files/proxy links to. What differs here is rendered: these files of
       its folder site/, by name. */}}
{{- define "ofa.proxySite" -}}
{{- $proxy := .Values.proxy -}}
{{- $site := ternary "tls" "plain" (ne $proxy.tls.secretName "") -}}
{{- $callers := ternary "tls" "plain" (or (ne $proxy.keysSecret "") (ne $proxy.tls.clientCASecret "")) -}}
listen_http.conf: |
  {{- .Files.Get (printf "files/proxy/%s/listen_http.conf" $site) | nindent 2 }}
listen_grpc.conf: |
  {{- .Files.Get (printf "files/proxy/%s/listen_grpc.conf" $site) | nindent 2 }}
callers.conf: |
  {{- .Files.Get (printf "files/proxy/%s/callers.conf" $callers) | nindent 2 }}
{{- if eq $site "tls" }}
certificates.conf: |
  {{- .Files.Get "files/proxy/tls/certificates.conf" | nindent 2 }}
client_certificates.conf: |
  {{- include "ofa.proxyClientCertificates" $proxy | nindent 2 }}
{{- end }}
limits.conf: |
  {{- include "ofa.proxyLimits" $proxy | nindent 2 }}
upstreams.conf: |
  {{- include "ofa.proxyUpstreams" . | nindent 2 }}
{{- if and (eq $callers "tls") (eq $proxy.keysSecret "") }}
keys.conf: |
  # Certificates are the only names.
{{- end }}
{{- end }}

{{- define "ofa.proxyClientCertificates" -}}
{{- if .tls.clientCASecret }}
ssl_client_certificate site/ca.crt;
{{- /* With keys as well, either is a name to call by. */}}
ssl_verify_client {{ ternary "on" "optional" (eq .keysSecret "") }};
{{- else }}
ssl_verify_client off;
{{- end }}
{{- end }}

{{- /* Helm hands numbers over as floats, and writes a million as 1e+06: int64. */}}
{{- define "ofa.proxyLimits" -}}
client_max_body_size {{ .maxBodySize }};

limit_req_zone $share zone=rate:10m rate={{ int64 .perCaller.requestsPerSecond }}r/s;
limit_req zone=rate burst={{ mul 2 .perCaller.requestsPerSecond }} nodelay;
limit_conn_zone $share zone=concurrency:10m;
limit_conn concurrency {{ int64 .perCaller.concurrent }};
limit_conn_zone $large_share zone=large:10m;
limit_conn large {{ int64 .perCaller.concurrentLarge }};
{{- with .trustedProxies }}

{{- range . }}
set_real_ip_from {{ . }};
{{- end }}
real_ip_header X-Forwarded-For;
real_ip_recursive on;
{{- end }}
{{- end }}

{{- define "ofa.proxyUpstreams" -}}
{{- $proxy := .Values.proxy -}}
{{- $domain := printf "%s.svc.%s" .Release.Namespace $proxy.clusterDomain -}}
# The servers that the headless Services name, as they come and go.

resolver {{ $proxy.resolver }} valid=5s ipv6=off;
resolver_timeout 5s;
{{- range $track := list "stable" "canary" }}
{{- if or (eq $track "stable") $proxy.canary.release }}
{{- $release := ternary $.Release.Name $proxy.canary.release (eq $track "stable") }}
{{- /* No failure counts: see deploy/proxy/plain/upstreams.conf. */}}
{{- range $kind, $port := dict "grpc" 8001 "http" 8000 }}
{{- $room := printf "max_conns=%d max_fails=0" (int64 $proxy.callsPerServer) }}

upstream {{ $track }}_{{ $kind }} {
    zone {{ $track }}_{{ $kind }} 256k;
    least_conn;
    server {{ $release }}-server.{{ $domain }}:{{ $port }} resolve {{ $room }};
    {{- if eq $track "canary" }}
    # For what falls to a canary that is away or full.
    server {{ $.Release.Name }}-server.{{ $domain }}:{{ $port }} resolve {{ $room }} backup;
    {{- end }}
    keepalive 64;
}
{{- end }}
{{- end }}
{{- end }}
{{- if $proxy.canary.release }}

split_clients $request_id $track {
    {{ $proxy.canary.percent }}% canary;
    * stable;
}
{{- else }}

map "" $track { default stable; }
{{- end }}
{{- end }}
