package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/pkg/labels"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
)

// Of Loki's default list, the resource attributes that are ours to set: these become labels of the stream.
var ofStream = map[string]bool{
	"service.name":                true,
	"service.namespace":           true,
	"service.instance.id":         true,
	"deployment.environment":      true,
	"deployment.environment.name": true,
}

var notInNames = regexp.MustCompile(`[^a-zA-Z0-9_]`)

// entriesOf returns what Loki keeps of a request. The event's name is not among it, as in the Lokis before 2026-03.
func entriesOf(request *collector.ExportLogsServiceRequest) []entry {
	var made []entry
	for _, resource := range request.GetResourceLogs() {
		stream, rest := map[string]string{}, map[string]string{}
		for _, pair := range resource.GetResource().GetAttributes() {
			if ofStream[pair.GetKey()] {
				put(stream, "", pair)
			} else {
				put(rest, "", pair)
			}
		}
		if stream["service_name"] == "" {
			stream["service_name"] = "unknown_service"
		}
		for _, scope := range resource.GetScopeLogs() {
			for _, record := range scope.GetLogRecords() {
				all := merged(rest, stream)
				putIf(all, "scope_name", scope.GetScope().GetName())
				putIf(all, "scope_version", scope.GetScope().GetVersion())
				for _, pair := range record.GetAttributes() {
					put(all, "", pair)
				}
				putRecord(all, record)
				made = append(made, entry{
					at:     timeOf(record),
					line:   textOf(record.GetBody()),
					stream: labels.FromMap(stream),
					all:    labels.FromMap(merged(all, stream)), // what is a label of the stream stays as it is
				})
			}
		}
	}
	return made
}

func timeOf(record *logs.LogRecord) time.Time {
	if at := record.GetTimeUnixNano(); at != 0 {
		return time.Unix(0, int64(at))
	}
	return time.Unix(0, int64(record.GetObservedTimeUnixNano()))
}

func putRecord(to map[string]string, record *logs.LogRecord) {
	putIf(to, "severity_text", record.GetSeverityText())
	if number := record.GetSeverityNumber(); number != 0 {
		to["severity_number"] = strconv.Itoa(int(number))
	}
	if at := record.GetObservedTimeUnixNano(); at != 0 {
		to["observed_timestamp"] = strconv.FormatUint(at, 10)
	}
	putIf(to, "trace_id", hex.EncodeToString(record.GetTraceId()))
	putIf(to, "span_id", hex.EncodeToString(record.GetSpanId()))
}

// put adds an attribute under the name that Loki gives it; a map's values come one by one, after the map's name.
func put(to map[string]string, before string, pair *common.KeyValue) {
	name := notInNames.ReplaceAllString(pair.GetKey(), "_")
	if before != "" {
		name = before + "_" + name
	}
	if inner := pair.GetValue().GetKvlistValue(); inner != nil {
		for _, each := range inner.GetValues() {
			put(to, name, each)
		}
		return
	}
	putIf(to, name, textOf(pair.GetValue()))
}

func putIf(to map[string]string, name, value string) {
	if value != "" {
		to[name] = value
	}
}

func merged(first, second map[string]string) map[string]string {
	made := make(map[string]string, len(first)+len(second))
	for name, value := range first {
		made[name] = value
	}
	for name, value := range second {
		made[name] = value
	}
	return made
}

// textOf returns a value as text: lists and maps as JSON.
func textOf(value *common.AnyValue) string {
	switch plain := plainOf(value).(type) {
	case nil:
		return ""
	case string:
		return plain
	default:
		var made strings.Builder
		encoder := json.NewEncoder(&made)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(plain); err != nil {
			return err.Error()
		}
		return strings.TrimSuffix(made.String(), "\n")
	}
}

func plainOf(value *common.AnyValue) interface{} {
	switch kind := value.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return kind.StringValue
	case *common.AnyValue_BoolValue:
		return kind.BoolValue
	case *common.AnyValue_IntValue:
		return kind.IntValue
	case *common.AnyValue_DoubleValue:
		return kind.DoubleValue
	case *common.AnyValue_BytesValue:
		return base64.StdEncoding.EncodeToString(kind.BytesValue)
	case *common.AnyValue_ArrayValue:
		made := []interface{}{}
		for _, each := range kind.ArrayValue.GetValues() {
			made = append(made, plainOf(each))
		}
		return made
	case *common.AnyValue_KvlistValue:
		made := map[string]interface{}{}
		for _, pair := range kind.KvlistValue.GetValues() {
			made[pair.GetKey()] = plainOf(pair.GetValue())
		}
		return made
	}
	return nil
}
