/** Charts as SVG and PNG. The libraries behind them are loaded by the first chart: nothing else waits for them. */
import { fileURLToPath } from 'node:url'
import type { EChartsOption } from 'echarts'
import { writeAtomically } from '../files/atomic.js'

export type ChartOption = EChartsOption

/** Pixels. */
export interface Size {
  width: number
  height: number
}

const SIZE: Size = { width: 1200, height: 675 }

/** The colours of all charts; `series`: of what is drawn, in order. */
export const colours = {
  background: '#ffffff',
  text: '#333333',
  axis: '#777777',
  grid: '#e4e4e4',
  strong: '#1b5fae',
  light: '#9ec5f0',
  accent: '#c0392b',
  series: ['#1b5fae', '#e08a1e', '#3a9a5b', '#8e5bb5', '#c0392b', '#4db3c4', '#8a6d4b', '#6b7280'],
}

/** The font that is shipped comes first, so that texts are as wide in both formats. */
const FAMILY = 'DejaVu Sans'
const FONT = fileURLToPath(new URL('../../../data/DejaVuSans.ttf', import.meta.url))

const TEXT = { color: colours.text, fontFamily: `${FAMILY}, Verdana, sans-serif`, fontSize: 16 }

/** An axis of numbers: its title, with the unit, stands in the middle beside the numbers. `showMaxLabel`: where `max` is no round number. */
export function axis(
  title: string,
  gap: number,
  { showMaxLabel = true, ...more }: { showMaxLabel?: boolean; [more: string]: unknown } = {},
) {
  return {
    type: 'value' as const,
    name: title,
    nameLocation: 'middle' as const,
    nameGap: gap,
    nameTextStyle: TEXT,
    axisLabel: { ...TEXT, ...(!showMaxLabel && { showMaxLabel }) },
    axisLine: { show: true, lineStyle: { color: colours.axis } },
    splitLine: { lineStyle: { color: colours.grid } },
    ...more,
  }
}

/** The title of a chart, with a line below it. */
export function heading(text: string, subtext = '') {
  return { text, subtext, left: 24, top: 16, textStyle: { ...TEXT, fontSize: 22 }, subtextStyle: { ...TEXT, color: colours.axis } }
}

/** The names of what is drawn, below the chart, in as many rows as it takes. */
export function legend(data: string[]) {
  return { data, bottom: 12, icon: 'roundRect', itemGap: 20, textStyle: { ...TEXT, fontSize: 15 } }
}

/** Without a browser nobody measures texts, and ECharts' guess is too narrow for this font. Trap: of 国 it takes the height of a line. */
function measureText(text: string, font = '') {
  const [, size = TEXT.fontSize] = /([\d.]+)px/.exec(font) ?? []
  const ems = Array.from(text, (letter) => (letter >= '\u2e80' ? 1 : 0.58))
  return { width: Number(size) * ems.reduce((sum, em) => sum + em, 0) }
}

/** Draws a chart, described as ECharts takes it, as SVG. */
export async function chart(option: ChartOption, { width, height }: Size = SIZE): Promise<string> {
  const { init, setPlatformAPI } = await import('echarts')
  setPlatformAPI({ measureText })
  const drawn = init(null, null, { renderer: 'svg', ssr: true, width, height })
  try {
    drawn.setOption({
      animation: false,
      backgroundColor: colours.background,
      color: colours.series,
      textStyle: TEXT,
      ...option,
    })
    return drawn.renderToSVGString()
  } finally {
    drawn.dispose()
  }
}

/** Draws SVG as PNG, texts in the font that is shipped: it needs none of the machine's. */
export async function png(svg: string): Promise<Uint8Array> {
  const { Resvg } = await import('@resvg/resvg-js')
  const font = { fontFiles: [FONT], loadSystemFonts: false, defaultFontFamily: FAMILY, sansSerifFamily: FAMILY }
  return new Resvg(svg, { font }).render().asPng()
}

/** Writes a picture as what its name ends in says. Throws as `writeAtomically`. */
export async function writePicture(path: string, svg: string): Promise<void> {
  await writeAtomically(path, /\.png$/i.test(path) ? await png(svg) : svg)
}
