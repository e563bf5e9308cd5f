{{- define "gomodel.name" -}}
{{- $name := .Release.Name }}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{ $name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "gomodel.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gomodel.labels" -}}
{{ include "gomodel.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The prefix of an instance's variables: vllm-eu-west-2 has VLLM_EU_WEST_2. */}}
{{- define "gomodel.prefix" -}}
{{ . | upper | replace "-" "_" }}
{{- end }}

{{/* The Secret with the master key; empty where there is none. */}}
{{- define "gomodel.masterKey" -}}
{{- if .Values.masterKey.secret }}{{ .Values.masterKey.secret }}{{ else if .Values.masterKey.create }}{{ include "gomodel.name" . }}-master-key{{ end }}
{{- end }}

{{/* Every Secret that is mounted, as the files that the variables name. */}}
{{- define "gomodel.secrets" -}}
{{- with include "gomodel.masterKey" . }}
- secret:
    name: {{ . }}
    items:
      - key: {{ $.Values.masterKey.key }}
        path: master-key
{{- end }}
{{- range $name, $instance := .Values.instances }}
{{- with $instance.apiKey }}
- secret:
    name: {{ .secret }}
    items:
      - key: {{ .key }}
        path: {{ $name }}-api-key
{{- end }}
{{- end }}
{{- with .Values.keysFile }}
{{- if .secret }}
- secret:
    name: {{ .secret }}
    items:
      - key: {{ .key }}
        path: keys.toml
{{- end }}
{{- end }}
{{- with .Values.redis }}
{{- if .secret }}
- secret:
    name: {{ .secret }}
    items:
      - key: {{ .key }}
        path: redis-url
{{- end }}
{{- end }}
{{- if .Values.batches.enabled }}
{{- with .Values.batches.database }}
{{- if .secret }}
- secret:
    name: {{ .secret }}
    items:
      - key: {{ .key }}
        path: database-url
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether more than one pod may run at once. */}}
{{- define "gomodel.several" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}yes{{ end }}
{{- end }}

{{/* What cannot work is refused here rather than in the cluster. */}}
{{- define "gomodel.checks" -}}
{{- $own := list "VLLM_BASE_URL" "GOMODEL_MASTER_KEY" "GOMODEL_MASTER_KEY_FILE" "GOMODEL_KEYS_FILE" "GOMODEL_REDIS_URL" "GOMODEL_DATA_DIR" "GOMODEL_DATABASE_URL" "GOMODEL_DRAIN_TIMEOUT" "PORT" }}
{{- range $name := $own }}
{{- if hasKey $.Values.env $name }}{{ fail (printf "env.%s: this variable is made of other values; see values.yaml" $name) }}{{ end }}
{{- end }}
{{- with .Values.batches }}
{{- if and .enabled (include "gomodel.several" $) }}
{{- if not .database.secret }}{{ fail "batches: several pods need batches.database.secret (PostgreSQL); or set autoscaling.enabled=false and replicas=1" }}{{ end }}
{{- if and (not .existingClaim) (ne .accessMode "ReadWriteMany") }}{{ fail "batches: several pods share the files: batches.accessMode=ReadWriteMany, or batches.existingClaim" }}{{ end }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.host: the name that clients use" }}{{ end }}
{{- end }}
