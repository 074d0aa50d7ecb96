package main

import (
	"context"
	"hash/fnv"
	"sort"
	"sync"
	"time"

	"github.com/grafana/loki/pkg/iter"
	"github.com/grafana/loki/pkg/logproto"
	"github.com/grafana/loki/pkg/logql"
	"github.com/prometheus/prometheus/pkg/labels"
)

// An entry is one record. Its labels are those of its stream and, in later Lokis, its structured metadata; filters
// see no difference between the two, stream selectors see the former only.
type entry struct {
	at     time.Time
	line   string
	stream labels.Labels
	all    labels.Labels
}

type identity struct {
	stream uint64
	at     int64
	line   string
}

type store struct {
	lock       sync.RWMutex
	entries    []entry
	seen       map[identity]bool
	duplicates int
}

func newStore() *store { return &store{seen: map[identity]bool{}} }

// add keeps the entries. As in Loki, of entries of one stream with the same time and line only the first is kept,
// whatever their metadata say.
func (s *store) add(made []entry) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for _, each := range made {
		who := identity{each.stream.Hash(), each.at.UnixNano(), each.line}
		if s.seen[who] {
			s.duplicates++
			continue
		}
		s.seen[who] = true
		s.entries = append(s.entries, each)
	}
}

func (s *store) values(name string) []string {
	s.lock.RLock()
	defer s.lock.RUnlock()
	found := map[string]bool{}
	for _, each := range s.entries {
		if value := each.stream.Get(name); value != "" {
			found[value] = true
		}
	}
	return sorted(found)
}

func sorted(found map[string]bool) []string {
	made := make([]string, 0, len(found))
	for each := range found {
		made = append(made, each)
	}
	sort.Strings(made)
	return made
}

// selected returns the entries that the selector picks, from start on and before end.
func (s *store) selected(matchers []*labels.Matcher, start, end time.Time) []entry {
	s.lock.RLock()
	defer s.lock.RUnlock()
	var made []entry
	for _, each := range s.entries {
		if !each.at.Before(start) && each.at.Before(end) && matches(each.stream, matchers) {
			made = append(made, each)
		}
	}
	return made
}

func matches(stream labels.Labels, matchers []*labels.Matcher) bool {
	for _, matcher := range matchers {
		if !matcher.Matches(stream.Get(matcher.Name)) {
			return false
		}
	}
	return true
}

// SelectLogs is what the engine asks for lines.
func (s *store) SelectLogs(ctx context.Context, asked logql.SelectLogParams) (iter.EntryIterator, error) {
	selector, err := asked.LogSelector()
	if err != nil {
		return nil, err
	}
	pipeline, err := selector.Pipeline()
	if err != nil {
		return nil, err
	}
	streams := map[string]*logproto.Stream{}
	for _, each := range s.selected(selector.Matchers(), asked.Start, asked.End) {
		line, found, ok := pipeline.ForStream(each.all).ProcessString(each.line)
		if !ok {
			continue
		}
		name := found.String()
		if streams[name] == nil {
			streams[name] = &logproto.Stream{Labels: name}
		}
		made := logproto.Entry{Timestamp: each.at, Line: line}
		streams[name].Entries = append(streams[name].Entries, made)
	}
	made := make([]iter.EntryIterator, 0, len(streams))
	for _, stream := range streams {
		entries := stream.Entries
		sort.SliceStable(entries, func(i, j int) bool {
			if asked.Direction == logproto.BACKWARD {
				i, j = j, i
			}
			return entries[i].Timestamp.Before(entries[j].Timestamp)
		})
		made = append(made, iter.NewStreamIterator(*stream))
	}
	return iter.NewHeapIterator(ctx, made, asked.Direction), nil
}

// SelectSamples is what the engine asks for numbers.
func (s *store) SelectSamples(ctx context.Context, asked logql.SelectSampleParams) (iter.SampleIterator, error) {
	expr, err := asked.Expr()
	if err != nil {
		return nil, err
	}
	extractor, err := expr.Extractor()
	if err != nil {
		return nil, err
	}
	series := map[string]*logproto.Series{}
	for number, each := range s.selected(expr.Selector().Matchers(), asked.Start, asked.End) {
		value, found, ok := extractor.ForStream(each.all).ProcessString(each.line)
		if !ok {
			continue
		}
		name := found.String()
		if series[name] == nil {
			series[name] = &logproto.Series{Labels: name}
		}
		made := logproto.Sample{Timestamp: each.at.UnixNano(), Value: value, Hash: hashOf(each, number)}
		series[name].Samples = append(series[name].Samples, made)
	}
	made := make([]iter.SampleIterator, 0, len(series))
	for _, each := range series {
		sort.Stable(each)
		made = append(made, iter.NewSeriesIterator(*each))
	}
	return iter.NewHeapSampleIterator(ctx, made), nil
}

// hashOf tells the engine which samples are one and the same: none here, add has seen to that.
func hashOf(each entry, number int) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(each.line))
	return hash.Sum64() + uint64(number)
}
