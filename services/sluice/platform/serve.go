package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// rawFor are the raw processors that read what each scraper scraped.
var rawFor = map[string]string{
	"bdl_games": "BdlGamesProcessor", "bdl_player_boxscores": "BdlTeamsProcessor", "bdl_team_boxscores": "BdlPlayersProcessor",
	"nbac_game_summary": "BdlBoxscoresProcessor", "nbac_team_boxscore": "NbacBoxscoreProcessor", "nbac_player_boxscore": "NbacGamesProcessor",
	"nbac_play_by_play": "NbacPlayersProcessor", "nbap_player_traditional": "NbacTeamsProcessor", "nbap_team_traditional": "NbacTeamBoxscoreProcessor",
	"nbap_player_advanced": "PdGamesProcessor", "nbap_team_advanced": "PdPlayerStatsProcessor", "nbap_player_misc": "PdTeamsProcessor",
	"nbap_team_misc": "PdScheduleProcessor", "nbap_player_scoring": "OddsGamesProcessor", "nbap_team_scoring": "OddsPlayerPropsProcessor",
	"nbap_player_usage": "OddsTeamLinesProcessor", "nbap_team_usage": "InjuriesProcessor", "nbap_player_defense": "NewsProcessor",
	"nbap_team_defense": "TransactionsProcessor", "nbap_tracking_player": "RefereesProcessor", "nbap_tracking_team": "StandingsProcessor",
}

// duration is a median and a spread in seconds.
type duration struct{ median, sigma float64 }

// durations are those of the reference workload for the phases that report by themselves.
var durations = map[string]duration{
	"player_game_summary": {4, 0.3}, "team_offense_game_summary": {4, 0.3}, "team_defense_game_summary": {4, 0.3},
	"upcoming_team_game_context": {7, 0.3}, "upcoming_player_game_context": {9, 0.4},
	"team_defense_zone_analysis": mean(29), "player_shot_zone_analysis": mean(73), "player_composite_factors": mean(47),
	"player_daily_cache": mean(65), "ml_feature_store_v2": mean(64), "prediction_coordinator": {180, 0.2},
}

// mean is the log-normal duration of a precompute processor, by its mean.
func mean(m float64) duration { return duration{m * math.Exp(-0.25*0.25/2), 0.25} }

// analytics are phase 3's processors; the last one waits for the one before it.
var analytics = []string{
	"player_game_summary", "team_offense_game_summary", "team_defense_game_summary", "upcoming_team_game_context", "upcoming_player_game_context",
}

// asked is one request while it is served.
type asked struct {
	p    *Platform
	w    http.ResponseWriter
	r    *http.Request
	call int // its place in the log
}

// take reads the request and logs it. Fields that are missing are answered 400.
func (p *Platform) take(w http.ResponseWriter, r *http.Request, dateField string) (*asked, map[string]any, string) {
	var body map[string]any
	err := json.NewDecoder(r.Body).Decode(&body)
	date, _ := body[dateField].(string)
	if _, bad := time.Parse(time.DateOnly, date); err != nil || bad != nil {
		http.Error(w, "the body must be JSON with "+dateField, http.StatusBadRequest)
		return nil, nil, ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, Call{Path: r.URL.Path, Key: r.Header.Get("Idempotency-Key"), Date: date, At: time.Now()})
	p.inFlight++
	return &asked{p, w, r, len(p.calls) - 1}, body, date
}

func (a *asked) names(processors ...string) {
	a.p.mu.Lock()
	a.p.calls[a.call].Processors = processors
	a.p.mu.Unlock()
}

// answer logs the answer and then gives it; 0 is none.
func (a *asked) answer(status int, text string) {
	a.p.mu.Lock()
	a.p.calls[a.call].Answered, a.p.calls[a.call].Status = time.Now(), status
	a.p.inFlight--
	a.p.mu.Unlock()
	if status == 0 {
		panic(http.ErrAbortHandler) // closes the connection
	}
	a.w.WriteHeader(status)
	_, _ = a.w.Write([]byte(text)) //nolint:gosec // only Sluice reads it
}

// befall lets trouble happen; false means that the request has been answered with it.
func (a *asked) befall(t trouble) bool {
	switch t {
	case fail:
		a.answer(http.StatusInternalServerError, "random failure")
	case reset:
		a.answer(0, "")
	case hang:
		select {
		case <-a.r.Context().Done():
		case <-a.p.ctx.Done():
		}
		a.answer(0, "")
	case throttle:
		a.throttle(time.Second)
	case fine:
		return true
	}
	return false
}

func (a *asked) throttle(wait time.Duration) {
	seconds := max(0.01, wait.Seconds()/max(1, a.p.opts.Speed))
	a.w.Header().Set("Retry-After", strconv.FormatFloat(seconds, 'f', 3, 64))
	a.answer(http.StatusTooManyRequests, "the outside API says: too many requests")
}

// scrape is phase 1: it calls an outside API, and its end starts phase 2 for the same date.
func (p *Platform) scrape(w http.ResponseWriter, r *http.Request) {
	a, body, date := p.take(w, r, "game_date")
	if a == nil {
		return
	}
	scraper, _ := body["scraper"].(string)
	a.names(scraper)
	raw, ok := rawFor[scraper]
	if !ok {
		a.answer(http.StatusBadRequest, fmt.Sprintf("unknown scraper %q", scraper))
		return
	}
	if l := p.outside[scraper[:4]]; l != nil && !l.Allow() {
		a.throttle(2 * time.Second)
		return
	}
	if !a.befall(p.roll()) {
		return
	}
	if !p.sleep(r.Context(), p.lognormal(20, 0.6)) {
		a.answer(0, "")
		return
	}
	if p.broken(scraper, date) {
		a.answer(http.StatusInternalServerError, scraper+" is broken")
		return
	}
	p.finish(scraper, date)
	p.later("nba-phase2-raw-complete", "phase_2_raw", "game_date", raw, date, p.lognormal(10, 0.5))
	a.answer(http.StatusOK, "scraped")
}

func (p *Platform) broken(processor, date string) bool {
	return p.opts.Broken != nil && p.opts.Broken(processor, date)
}

// process is phase 3: one call starts all five processors.
func (p *Platform) process(w http.ResponseWriter, r *http.Request) {
	a, _, date := p.take(w, r, "analysis_date")
	if a == nil {
		return
	}
	a.names(analytics...)
	if t := p.roll(); t != fail && !a.befall(t) {
		return
	}
	var team time.Duration
	for _, name := range analytics {
		wait := p.lognormal(durations[name].median, durations[name].sigma)
		if name == "upcoming_team_game_context" {
			team = wait
		}
		if name == "upcoming_player_game_context" {
			wait += team
		}
		p.later("nba-phase3-analytics-complete", "phase_3_analytics", "analysis_date", name, date, wait)
	}
	a.answer(http.StatusAccepted, "accepted")
}

// processDate is phase 4: the call names its processors.
func (p *Platform) processDate(w http.ResponseWriter, r *http.Request) {
	a, body, date := p.take(w, r, "analysis_date")
	if a == nil {
		return
	}
	var names []string
	list, _ := body["processors"].([]any)
	for _, v := range list {
		name, _ := v.(string)
		names = append(names, name)
	}
	a.names(names...)
	if i := slices.IndexFunc(names, func(n string) bool { return durations[n].median == 0 }); i >= 0 || len(names) == 0 {
		a.answer(http.StatusBadRequest, fmt.Sprintf("unknown processors in %v", names))
		return
	}
	if t := p.roll(); t != fail && !a.befall(t) {
		return
	}
	for _, name := range names {
		p.later("nba-phase4-processor-complete", "phase_4_precompute", "analysis_date", name, date,
			p.lognormal(durations[name].median, durations[name].sigma))
	}
	a.answer(http.StatusAccepted, "accepted")
}

// start is phase 5.
func (p *Platform) start(w http.ResponseWriter, r *http.Request) {
	a, _, date := p.take(w, r, "game_date")
	if a == nil {
		return
	}
	a.names("prediction_coordinator")
	p.later("nba-phase5-predictions-complete", "phase_5_predictions", "game_date", "prediction_coordinator", date,
		p.lognormal(180, 0.2))
	a.answer(http.StatusAccepted, "accepted")
}

// later does a processor's work after its time, writes its rows, and reports it in the platform's own words.
func (p *Platform) later(topic, phase, dateField, processor, date string, wait time.Duration) {
	p.work.Add(1)
	go func() {
		defer p.work.Done()
		began := time.Now()
		if !p.sleep(p.ctx, wait) || (p.opts.Silent != nil && p.opts.Silent(processor, date)) {
			return
		}
		status, records := "success", 0
		if p.roll() == fail || p.broken(processor, date) {
			status = "failed"
			if p.opts.Tables != nil {
				if err := p.opts.Tables.record(p.ctx, phase, processor, date, status, began, 0); err != nil {
					p.opts.Log.Error("the platform cannot write its history", "processor", processor, "date", date, "error", err)
				}
			}
		} else if p.opts.Tables != nil {
			var err error
			if records, err = p.opts.Tables.write(p.ctx, phase, processor, date, began); err != nil {
				p.opts.Log.Error("the platform cannot write its tables", "processor", processor, "date", date, "error", err)
				status = "failed"
			}
		}
		if status == "success" {
			p.finish(processor, date)
		}
		if phase == p.opts.Mute {
			return
		}
		body, err := json.Marshal(map[string]any{
			"processor_name": processor, "phase": phase, dateField: date, "status": status, "record_count": records,
			"correlation_id": "corr-" + date, "execution_id": fmt.Sprintf("%s-%s-%d", processor, date, began.UnixNano()),
		})
		for try := 10 * time.Millisecond; err == nil; try = min(2*try, time.Second) {
			ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
			failed := p.opts.Report(ctx, topic, body)
			cancel()
			if failed == nil || !p.sleep(p.ctx, try) {
				return
			}
		}
	}()
}

// Processors lists the processors of phases 1 to 4.
func Processors() [4][]string {
	var out [4][]string
	for _, scraper := range slices.Sorted(maps.Keys(rawFor)) {
		out[0], out[1] = append(out[0], scraper), append(out[1], rawFor[scraper])
	}
	out[2] = analytics
	out[3] = []string{"team_defense_zone_analysis", "player_shot_zone_analysis", "player_composite_factors", "player_daily_cache", "ml_feature_store_v2"}
	return out
}
