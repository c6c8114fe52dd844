/** Writes rows with columns of equal width: those of `onLeft` begin where the column does, the others end where it ends. */
export function columns(rows: string[][], onLeft: number[] = [0]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const cell = (text: string, column: number) => text[onLeft.includes(column) ? 'padEnd' : 'padStart'](widths[column]!)
  return rows.map((row) => `  ${row.map(cell).join('  ')}`.trimEnd()).join('\n')
}
