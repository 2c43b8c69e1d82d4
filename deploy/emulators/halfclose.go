package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
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
		FlushInterval: -1, Transport: &http.Transport{Protocols: &out}, ModifyResponse: trailersLast,
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
		grpc.ServeHTTP(deaf{w}, r)
	})}
	go func() { _ = server.Serve(listener) }()
	return server
}

// deaf does not hear that the client is gone, so that the stream is read to its end.
type deaf struct{ http.ResponseWriter }

func (d deaf) Write(p []byte) (int, error) {
	_, _ = d.ResponseWriter.Write(p)
	return len(p), nil
}

// FlushError is what http.ResponseController looks for.
func (d deaf) FlushError() error {
	_ = http.NewResponseController(d.ResponseWriter).Flush()
	return nil
}

// trailersLast makes trailers of a status that came in the headers, as it does when there is no message: the
// headers are passed on before the end of the stream is known, and clients then look for a status behind them.
func trailersLast(resp *http.Response) error {
	if resp.Header.Get("Grpc-Status") == "" {
		return nil
	}
	resp.Trailer = http.Header{}
	for name := range resp.Header {
		if strings.HasPrefix(name, "Grpc-Status") || name == "Grpc-Message" {
			resp.Trailer[name] = resp.Header[name]
			resp.Header.Del(name)
		}
	}
	return nil
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
