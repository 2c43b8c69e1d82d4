package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// halfClose serves gRPC on the listener and passes it on to the Pub/Sub emulator, with one difference: when a
// client is gone without a word, killed for instance, its streams are ended in good order. Pub/Sub itself
// notices such clients; the emulator (0.8.20) goes on to hand each of their streams messages, which then wait
// for their ack deadline.
func halfClose(listener net.Listener, emulator string) *http.Server {
	var in, out http.Protocols
	in.SetHTTP1(true)
	in.SetUnencryptedHTTP2(true)
	out.SetUnencryptedHTTP2(true)
	grpc := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: emulator}) },
		FlushInterval: -1, Transport: &http.Transport{Protocols: &out},
	}
	rest := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: emulator}) },
	}
	server := &http.Server{Protocols: &in, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 {
			rest.ServeHTTP(w, r)
			return
		}
		// A context that ends with the client would reset the stream.
		ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = ended{r.Body}
		grpc.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	return server
}

// ended takes any failure to read for the end.
type ended struct{ io.ReadCloser }

func (e ended) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return n, err
}
