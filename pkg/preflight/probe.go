package preflight

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// healthURL is a health path beside a target's URL; a whole URL stays as it is.
func healthURL(target, health string) string {
	base, err := url.Parse(target)
	if err != nil {
		return health
	}
	ref, err := url.Parse(health)
	if err != nil {
		return health
	}
	return base.ResolveReference(ref).String()
}

// probes is how often a target may fail to answer well; it may just be starting.
const probes = 3

// Prober asks targets for their health, with the same identity as the calls. token may be nil where nothing wants
// one. pause lies between the attempts.
func Prober(token func(ctx context.Context, url string) (string, error), pause time.Duration) func(ctx context.Context, url, auth string) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, IdleConnTimeout: 10 * time.Second,
	}}
	return func(ctx context.Context, target, auth string) error {
		var err error
		for range probes {
			if err = probe(ctx, client, token, target, auth); err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
			}
		}
		return err
	}
}

func probe(ctx context.Context, client *http.Client, token func(ctx context.Context, url string) (string, error), target, auth string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return err
	}
	if auth == "oidc" && token != nil { // as the calls do
		t, err := token(ctx, target)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+t)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("HTTP %d %s", resp.StatusCode, text)
	}
	return nil
}
