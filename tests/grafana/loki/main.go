// A store of log records in memory, asked with the LogQL engine of Loki 2.2.1, the last under the Apache licence.
//
// What is stored, and under which labels, is our own reading of what Loki 3 makes of OTLP: store.go and otlp.go.
// How a query is parsed and evaluated, and the form of the answers, is Loki's own code.
package main

import (
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/grafana/loki/pkg/logql"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatalf("usage: %s ADDRESS", os.Args[0])
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	kept := newStore()
	options := logql.EngineOpts{Timeout: time.Minute, MaxLookBackPeriod: time.Hour}
	engine := logql.NewEngine(options, kept, logql.NoLimits)
	server := &http.Server{Handler: newHandler(kept, engine), ReadHeaderTimeout: time.Minute}
	log.Fatal(server.Serve(listener))
}
