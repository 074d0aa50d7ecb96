// Draws one dashboard: its JSON as committed, its data as Prometheus and LogQL gave them; both come in page.json.
import { createTheme, dateTime, dateTimeFormat, FieldType, getDisplayProcessor, getValueFormat, ThemeContext, toDataFrame } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

const CELL = { width: 60, height: 38, gap: 8 };

function fieldOf(panel, series, index, theme) {
  const defaults = panel.fieldConfig.defaults;
  const config = { ...defaults, custom: { ...defaults.custom }, displayName: series.legend, links: [] };
  for (const { matcher, properties } of panel.fieldConfig.overrides) {
    if (!new RegExp(matcher.options).test(series.legend)) continue;
    for (const { id, value } of properties) {
      if (id.startsWith('custom.')) config.custom[id.slice(7)] = value;
      else config[id] = value;
    }
  }
  const values = series.values.map(([, value]) => (value === 'NaN' ? null : Number(value)));
  const field = { name: series.legend, type: FieldType.number, config, values, state: { seriesIndex: index } };
  field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
  return field;
}

function framesOf(panel, results, theme) {
  return results.map((series, index) => {
    const time = { name: 'time', type: FieldType.time, config: {}, values: series.values.map(([at]) => at * 1000) };
    const frame = toDataFrame({ fields: [time] });
    frame.fields[0].display = getDisplayProcessor({ field: frame.fields[0], theme, timeZone: 'utc' });
    return { ...frame, length: series.values.length, fields: [frame.fields[0], fieldOf(panel, series, index, theme)] };
  });
}

const last = (field) => field.values.findLast((value) => value !== null && value !== undefined);

function Stat({ panel, frames, width, height, theme }) {
  const shown = frames.length ? frames[0].fields[1].display(last(frames[0].fields[1])) : null;
  const value = shown ?? { text: panel.fieldConfig.defaults.noValue, numeric: NaN, color: theme.colors.text.primary };
  return <BigValue {...panel.options} value={{ ...value, title: '' }} width={width} height={height} theme={theme} />;
}

function Bars({ panel, frames, width, height, theme }) {
  const values = frames.map((frame) => frame.fields[1]);
  const most = Math.max(...values.map(last), 1);
  const longest = (texts) => texts.reduce((a, b) => (b.length > a.length ? b : a), '');
  const factors = { title: longest(values.map(({ name }) => `${name}--`)), text: longest(values.map((f) => f.display(last(f)).text)) };
  return (
    <div style={{ display: 'flex', flexDirection: 'column', gap: 6, overflow: 'hidden', height }}>
      {values.map((field) => (
        <BarGauge
          key={field.name}
          {...panel.options}
          field={{ ...field.config, min: 0, max: most }}
          display={field.display}
          alignmentFactors={factors}
          value={{ ...field.display(last(field)), title: field.name, color: theme.visualization.getColorByName('blue') }}
          width={width}
          height={Math.max(18, Math.min(34, height / values.length - 6))}
          theme={theme}
        />
      ))}
    </div>
  );
}

function Heat({ panel, frames, width, height, theme }) {
  // @grafana/ui has no heatmap: cells are drawn here, units and palette are the panel's.
  const edge = (frame) => Number(frame.fields[1].name.replace('+Inf', 'Infinity'));
  const sorted = [...frames].sort((a, b) => edge(a) - edge(b));
  const below = sorted.map((frame, row) =>
    frame.fields[1].values.map((value, at) => Math.max(0, value - (row ? sorted[row - 1].fields[1].values[at] : 0)))
  );
  const kept = below.map((cells, row) => ({ cells, row })).filter(({ cells }) => cells.some((cell) => cell > 0));
  const most = Math.max(...kept.flatMap(({ cells }) => cells), 1);
  const format = getValueFormat(panel.fieldConfig.defaults.unit);
  return (
    <div style={{ display: 'flex', flexDirection: 'column-reverse', height, width, fontSize: 10 }}>
      {kept.map(({ cells, row }) => (
        <div key={row} style={{ display: 'flex', flex: 1, alignItems: 'stretch' }}>
          <span style={{ width: 60, color: theme.colors.text.secondary }}>
            {Object.values(format(edge(sorted[row]))).filter((x) => typeof x === 'string').join('')}
          </span>
          {cells.map((cell, at) => (
            <span
              key={at}
              style={{ flex: 1, margin: 0.5, background: cell ? `rgba(50, 116, 217, ${Math.sqrt(cell / most)})` : 'none' }}
            />
          ))}
        </div>
      ))}
    </div>
  );
}

// What annotations mark, as Grafana draws it: a dashed line, and a triangle below it.
function drawMarks(plot, marks, theme) {
  const { ctx, bbox } = plot;
  ctx.save();
  for (const { time, color } of marks) {
    const x = Math.round(plot.valToPos(time * 1000, 'x', true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const bottom = bbox.top + bbox.height;
    ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(color);
    ctx.lineWidth = 1;
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bottom);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x, bottom);
    ctx.lineTo(x - 4, bottom + 6);
    ctx.lineTo(x + 4, bottom + 6);
    ctx.fill();
  }
  ctx.restore();
}

function Lines({ panel, frames, page, theme, width, height, range }) {
  if (!frames.length) return <div>No data</div>;
  return (
    <TimeSeries
      frames={frames}
      timeRange={range}
      timeZone="utc"
      legend={panel.options.legend}
      options={panel.options}
      width={width}
      height={height}
      structureRev={1}
    >
      {(config) => {
        config.addHook('draw', (plot) => drawMarks(plot, page.marks, theme));
        return null;
      }}
    </TimeSeries>
  );
}

const LEVELS = { ERROR: 'red', WARN: 'orange', INFO: 'green', DEBUG: 'blue' };

function Logs({ panel, page, width, height, theme }) {
  // @grafana/ui has no rows of logs: they are drawn here, as many as there is room for, in its colours and font.
  const rows = (page.lines[panel.id] ?? []).slice(0, Math.floor(height / 20));
  if (!rows.length) return <div>No data</div>;
  const { fontFamilyMonospace } = theme.typography;
  return (
    <div style={{ fontFamily: fontFamilyMonospace, fontSize: 12, lineHeight: '20px', width, height, overflow: 'hidden' }}>
      {rows.map(({ time, level, text }, at) => (
        <div key={at} style={{ display: 'flex', whiteSpace: 'pre', overflow: 'hidden' }}>
          <span style={{ width: 3, margin: '1px 8px 1px 0', background: theme.visualization.getColorByName(LEVELS[level] ?? 'gray') }} />
          <span style={{ color: theme.colors.text.secondary, marginRight: 12 }}>
            {dateTimeFormat(time * 1000, { format: 'YYYY-MM-DD HH:mm:ss.SSS', timeZone: 'utc' })}
          </span>
          <span style={{ color: theme.colors.text.primary }}>{text.replace(/ +/g, ' ')}</span>
        </div>
      ))}
    </div>
  );
}

const KINDS = { stat: Stat, timeseries: Lines, bargauge: Bars, heatmap: Heat, logs: Logs };

function Panel({ panel, page, theme, range }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: 'absolute', left: x * CELL.width, top: y * CELL.height };
  const width = w * CELL.width - CELL.gap;
  const height = h * CELL.height - CELL.gap;
  if (panel.type === 'row') return <h5 style={{ ...place, width, color: theme.colors.text.primary }}>{panel.title}</h5>;
  const Kind = KINDS[panel.type];
  const frames = framesOf(panel, page.results[panel.id] ?? [], theme);
  return (
    <div style={place} data-panel={panel.id}>
      <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
        {(innerWidth, innerHeight) => (
          <Kind {...{ panel, frames, page, theme, range }} width={innerWidth} height={innerHeight} />
        )}
      </PanelChrome>
    </div>
  );
}

async function main() {
  const page = await (await fetch('./page.json')).json();
  await initPluginTranslations('grafana-ui', []).catch(() => undefined);
  const theme = createTheme({ colors: { mode: page.theme } });
  const [from, to] = [dateTime(page.from * 1000), dateTime(page.to * 1000)];
  const range = { from, to, raw: { from, to } };
  const bottom = Math.max(...page.board.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  document.body.style.background = theme.colors.background.canvas;
  createRoot(document.getElementById('page')).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ position: 'relative', width: 24 * CELL.width, height: bottom * CELL.height, margin: 12 }}>
        {page.board.panels.map((panel) => (
          <Panel key={panel.id} {...{ panel, page, theme, range }} />
        ))}
      </div>
    </ThemeContext.Provider>
  );
}

main().catch((error) => {
  document.body.textContent = String(error.stack); // so that the picture shows it
});
