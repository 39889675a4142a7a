// A workload to see from outside: it answers every HTTP request on port 8080 with the name of its Pod, and asks another one
// where the path says so: /ask/hello.shop:80.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
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
	ask := func(w http.ResponseWriter, r *http.Request) {
		client := http.Client{Timeout: 5 * time.Second}
		said, err := client.Get("http://" + r.PathValue("whom") + "/")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer said.Body.Close()
		fmt.Fprintf(w, "%s heard: ", name)
		io.Copy(w, said.Body)
	}
	http.HandleFunc("/ask/{whom}", ask)
	http.HandleFunc("/", answer)
	if err := http.ListenAndServe(":8080", nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
