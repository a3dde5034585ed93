{{- define "ofa.nginx" -}}
{{- $proxy := .Values.proxy -}}
{{- $domain := printf "%s.svc.%s" .Release.Namespace $proxy.clusterDomain -}}
{{- $tls := ne $proxy.tls.secretName "" -}}
# Balances request by request over the servers that the headless Service names, as they come and go.

pid /tmp/nginx.pid;
error_log /dev/stderr warn;
worker_processes 2;
worker_shutdown_timeout 70s;

events {
    worker_connections 8192;
}

http {
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;

    log_format json escape=json
        '{"time":"$time_iso8601","request_id":"$request_id","remote":"$remote_addr","request":"$request",'
        '"status":$status,"grpc_status":"$sent_http_grpc_status","bytes_in":$request_length,'
        '"seconds":$request_time,"server":"$upstream_addr","server_seconds":"$upstream_response_time"}';
    access_log /dev/stdout json;

    server_tokens off;
    client_max_body_size {{ $proxy.maxBodySize }};
    client_header_timeout 10s;
    client_body_timeout 10s;
    send_timeout 10s;
    large_client_header_buffers 4 8k;

    resolver {{ $proxy.resolver }} valid=5s ipv6=off;
    resolver_timeout 5s;

    {{- range $track := list "stable" "canary" }}
    {{- if or (eq $track "stable") $proxy.canary.release }}
    {{- $release := ternary $.Release.Name $proxy.canary.release (eq $track "stable") }}
    {{- range $kind, $port := dict "grpc" 8001 "http" 8000 }}

    upstream {{ $track }}_{{ $kind }} {
        zone {{ $track }}_{{ $kind }} 256k;
        least_conn;
        server {{ $release }}-server.{{ $domain }}:{{ $port }} resolve max_fails=3 fail_timeout=5s;
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

    map "" $track {
        default stable;
    }
    {{- end }}
    {{- if $tls }}

    ssl_certificate /certificate/tls.crt;
    ssl_certificate_key /certificate/tls.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:8m;
    {{- if $proxy.tls.clientCASecret }}
    ssl_client_certificate /client-ca/ca.crt;
    ssl_verify_client on;
    {{- end }}
    {{- end }}

    server {
        listen 8080{{ if $tls }} ssl{{ end }};

        location ~ ^/v2/(health/(live|ready)|models/[A-Za-z0-9_-]+(/ready|/infer)?)$ {
            # Compressed bodies could hold anything.
            if ($http_content_encoding) {
                return 415;
            }
            proxy_pass http://${track}_http;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Request-Id $request_id;
            proxy_connect_timeout 2s;
            proxy_read_timeout 65s;
            # A caption changes nothing on the server, so another one may be asked.
            proxy_next_upstream error timeout http_503 non_idempotent;
            proxy_next_upstream_tries 3;
            proxy_next_upstream_timeout 10s;
        }

        location / {
            return 404;
        }
    }

    server {
        listen 8081{{ if $tls }} ssl{{ end }} http2;

        location ~ ^/inference\.GRPCInferenceService/(ModelInfer|ModelReady|ModelMetadata|ServerLive|ServerReady)$ {
            grpc_pass grpc://${track}_grpc;
            grpc_set_header X-Request-Id $request_id;
            grpc_connect_timeout 2s;
            grpc_read_timeout 65s;
            grpc_next_upstream error timeout http_503 non_idempotent;
            grpc_next_upstream_tries 3;
            grpc_next_upstream_timeout 10s;
        }

        location / {
            # In gRPC's words: unimplemented.
            default_type application/grpc;
            add_header grpc-status 12 always;
            return 200;
        }
    }

    server {
        listen 8082;
        access_log off;

        # Whether this proxy has a server to send to.
        location = /ready {
            proxy_pass http://stable_http/v2/health/ready;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_connect_timeout 1s;
            proxy_read_timeout 2s;
        }

        location = /alive {
            return 204;
        }
    }
}
{{- end }}
