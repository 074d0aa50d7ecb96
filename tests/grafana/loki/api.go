package main

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/grafana/loki/pkg/loghttp"
	"github.com/grafana/loki/pkg/logql"
	"github.com/grafana/loki/pkg/logql/marshal"
	"github.com/weaveworks/common/user"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"
)

func newHandler(kept *store, engine *logql.Engine) http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("/ready", func(http.ResponseWriter, *http.Request) {})
	routes.HandleFunc("/otlp/v1/logs", func(to http.ResponseWriter, asked *http.Request) { push(kept, to, asked) })
	routes.HandleFunc("/loki/api/v1/query", func(to http.ResponseWriter, asked *http.Request) {
		answer(to, asked, engine, instant)
	})
	routes.HandleFunc("/loki/api/v1/query_range", func(to http.ResponseWriter, asked *http.Request) {
		answer(to, asked, engine, ranged)
	})
	routes.HandleFunc("/loki/api/v1/label/", func(to http.ResponseWriter, asked *http.Request) {
		name := strings.TrimPrefix(asked.URL.Path, "/loki/api/v1/label/")
		list(to, kept.values(strings.TrimSuffix(name, "/values")))
	})
	routes.HandleFunc("/duplicates", func(to http.ResponseWriter, _ *http.Request) {
		kept.lock.RLock()
		defer kept.lock.RUnlock()
		_ = json.NewEncoder(to).Encode(kept.duplicates)
	})
	return routes
}

func push(kept *store, to http.ResponseWriter, asked *http.Request) {
	body := io.Reader(asked.Body)
	if asked.Header.Get("Content-Encoding") == "gzip" {
		plain, err := gzip.NewReader(asked.Body)
		if err != nil {
			http.Error(to, err.Error(), http.StatusBadRequest)
			return
		}
		body = plain
	}
	raw, err := io.ReadAll(body)
	request := &collector.ExportLogsServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(raw, request)
	}
	if err != nil {
		http.Error(to, err.Error(), http.StatusBadRequest)
		return
	}
	kept.add(entriesOf(request))
	to.WriteHeader(http.StatusNoContent)
}

func instant(asked *http.Request) (logql.Params, error) {
	query, err := loghttp.ParseInstantQuery(asked)
	if err != nil {
		return nil, err
	}
	return logql.NewLiteralParams(query.Query, query.Ts, query.Ts, 0, 0, query.Direction, query.Limit, nil), nil
}

func ranged(asked *http.Request) (logql.Params, error) {
	query, err := loghttp.ParseRangeQuery(asked)
	if err != nil {
		return nil, err
	}
	return logql.NewLiteralParams(
		query.Query, query.Start, query.End, query.Step, query.Interval, query.Direction, query.Limit, nil,
	), nil
}

func answer(
	to http.ResponseWriter, asked *http.Request, engine *logql.Engine, read func(*http.Request) (logql.Params, error),
) {
	to.Header().Set("Access-Control-Allow-Origin", "*")
	err := asked.ParseForm()
	var params logql.Params
	if err == nil {
		params, err = read(asked)
	}
	var found logql.Result
	if err == nil {
		found, err = engine.Query(params).Exec(user.InjectOrgID(asked.Context(), "papyra"))
	}
	if err != nil {
		http.Error(to, err.Error(), http.StatusBadRequest)
		return
	}
	to.Header().Set("Content-Type", "application/json")
	_ = marshal.WriteQueryResponseJSON(found, to)
}

func list(to http.ResponseWriter, values []string) {
	to.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(to).Encode(map[string]interface{}{"status": "success", "data": values})
}
