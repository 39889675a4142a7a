// A workload to see from outside: it answers every HTTP request on port 8080 with the name of its Pod.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	name, _ := os.Hostname()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		os.Exit(0)
	}()
	answer := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "hello from %s\n", name) }
	if err := http.ListenAndServe(":8080", http.HandlerFunc(answer)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
