package scenario_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheReviewIsCovered counts the findings on docs/review-coverage.md and looks for the tests that it names.
func TestTheReviewIsCovered(t *testing.T) {
	t.Parallel()
	const root = "../../.."
	page, err := os.ReadFile(filepath.Join(root, "docs/review-coverage.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllStringSubmatch(string(text), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{
		"Critical issues": 6, "Important issues": 8, "Script bugs": 7, "Missing steps": 6, "Optimizations": 4, "Verification enhancements": 4, "Questions": 6,
	}
	got, section, named := map[string]int{}, "", 0
	for line := range strings.Lines(string(page)) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(title)
		}
		if !regexp.MustCompile(`^\| \d\. `).MatchString(line) {
			continue
		}
		got[section]++
		cells := strings.Split(line, " | ")
		shown := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(shown) == 0 && !strings.Contains(line, "no test") {
			t.Errorf("nothing shows it: %s", line)
		}
		for _, m := range shown {
			if named++; !tests[m[1]] {
				t.Errorf("there is no test %s: %s", m[1], line)
			}
		}
	}
	for title, n := range want {
		if got[title] != n {
			t.Errorf("%s has %d rows, not %d", title, got[title], n)
		}
	}
	if named < 50 {
		t.Errorf("only %d tests are named", named)
	}
}
