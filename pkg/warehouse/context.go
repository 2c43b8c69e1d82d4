package warehouse

import "context"

type backfillKey struct{}

// ForBackfill says on whose behalf the warehouse is asked, for labels and cost.
func ForBackfill(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, backfillKey{}, id)
}

// BackfillOf is the backfill on whose behalf the warehouse is asked, empty when nobody said.
func BackfillOf(ctx context.Context) string {
	id, _ := ctx.Value(backfillKey{}).(string)
	return id
}
