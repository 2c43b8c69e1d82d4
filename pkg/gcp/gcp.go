// Package gcp opens the Google Cloud drivers that a configuration names. Only mains import it.
package gcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync"

	"golang.org/x/oauth2"
	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/gcpbus"
	"sluice.dev/pkg/serve"
	"sluice.dev/pkg/state/firestorestate"
	"sluice.dev/pkg/warehouse/bqwarehouse"
)

// Drivers are what a service is put together from.
type Drivers struct {
	Bus       *gcpbus.Bus
	State     *firestorestate.Store
	Warehouse *bqwarehouse.Warehouse
	// Subscriber receives in the way that the configuration says; Push takes the requests of push subscriptions,
	// and is nil without any.
	Subscriber bus.Subscriber
	Push       http.Handler
}

// Open connects to everything. Nothing stays open when it fails.
func Open(ctx context.Context, c serve.Config, log *slog.Logger) (*Drivers, error) {
	if err := c.CheckDrivers(); err != nil {
		return nil, err
	}
	d := &Drivers{}
	var err error
	if d.Bus, err = gcpbus.Open(ctx, c.ProjectID, log); err != nil {
		return nil, err
	}
	if err := d.receive(ctx, c); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if d.State, err = firestorestate.Open(ctx, c.ProjectID, c.Database); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	bq := bqwarehouse.Options{Project: c.ProjectID, Journal: c.Journal, MaxBytesBilled: c.MaxBytesBilled}
	if c.Region != "" {
		bq.JobsView = bqwarehouse.JobsView(c.ProjectID, c.Region)
	}
	var options []option.ClientOption
	if host := os.Getenv("BIGQUERY_EMULATOR_HOST"); host != "" { // its client does not look for it by itself
		options = append(options, option.WithEndpoint(host), option.WithoutAuthentication())
		bq.Emulator = true
	}
	d.Warehouse, err = bqwarehouse.Open(ctx, bq, options...)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// receive chooses how messages come.
func (d *Drivers) receive(ctx context.Context, c serve.Config) error {
	d.Subscriber = d.Bus
	if c.Receive != "push" {
		return nil
	}
	var verify gcpbus.Verify
	if os.Getenv("PUBSUB_EMULATOR_HOST") == "" {
		var err error
		if verify, err = gcpbus.VerifyToken(ctx, c.PushAudience, c.PushServiceAccount); err != nil {
			return err
		}
	}
	push := d.Bus.Push(verify)
	d.Subscriber, d.Push = push, push
	return nil
}

// Close disconnects from everything.
func (d *Drivers) Close() error {
	var errs []error
	if d.Warehouse != nil {
		errs = append(errs, d.Warehouse.Close())
	}
	if d.State != nil {
		errs = append(errs, d.State.Close())
	}
	if d.Bus != nil {
		errs = append(errs, d.Bus.Close())
	}
	return errors.Join(errs...)
}

// Tokens makes identity tokens for targets, each for the audience of the target's scheme and host.
func Tokens() func(ctx context.Context, target string) (string, error) {
	var mu sync.Mutex
	sources := map[string]oauth2.TokenSource{}
	return func(ctx context.Context, target string) (string, error) {
		u, err := url.Parse(target)
		if err != nil {
			return "", fmt.Errorf("finding the audience of %s: %w", target, err)
		}
		audience := u.Scheme + "://" + u.Host
		mu.Lock()
		defer mu.Unlock()
		if sources[audience] == nil {
			source, err := idtoken.NewTokenSource(context.WithoutCancel(ctx), audience)
			if err != nil {
				return "", fmt.Errorf("getting a token for %s: %w", audience, err)
			}
			sources[audience] = source
		}
		token, err := sources[audience].Token()
		if err != nil {
			return "", fmt.Errorf("getting a token for %s: %w", audience, err)
		}
		return token.AccessToken, nil
	}
}
