package gcpbus

import (
	"context"
	"errors"
	"net"
	"net/url"

	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"

	"sluice.dev/pkg/fault"
)

// VerifyToken checks that a push request carries an identity token that Google signed for the audience, in the
// name of the service account.
func VerifyToken(ctx context.Context, audience, serviceAccount string, options ...option.ClientOption) (Verify, error) {
	if audience == "" || serviceAccount == "" {
		return nil, fault.New(fault.Invalid, "both the audience and the service account of push tokens must be known")
	}
	validator, err := idtoken.NewValidator(ctx, options...)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "preparing to verify tokens: %w", err)
	}
	return func(ctx context.Context, token string) error {
		payload, err := validator.Validate(ctx, token, audience)
		var unreachable *url.Error
		var network net.Error
		if errors.As(err, &unreachable) || errors.As(err, &network) || ctx.Err() != nil {
			return fault.New(fault.Unavailable, "getting Google's keys: %w", err)
		}
		if err != nil {
			return fault.New(fault.Refused, "the token is not valid: %w", err)
		}
		switch {
		case payload.Issuer != "https://accounts.google.com" && payload.Issuer != "accounts.google.com":
			return fault.New(fault.Refused, "the token was issued by %q", payload.Issuer)
		case payload.Claims["email"] != serviceAccount || payload.Claims["email_verified"] != true:
			return fault.New(fault.Refused, "the token is %v's, not %s's", payload.Claims["email"], serviceAccount)
		}
		return nil
	}, nil
}
