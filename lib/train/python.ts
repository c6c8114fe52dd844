/** Values as Python writes them, for metadata that Python's tools compare and read. */

/** Writes a float as `repr` does: the shortest digits that are the number, with a point or an exponent. */
export function float(value: number): string {
  const [, digits = '', sign = '', power = ''] = /^(.+)e([+-])(\d+)$/.exec(value.toExponential()) ?? []
  const small = sign === '-' && Number(power) > 4
  if (small || (sign === '+' && Number(power) >= 16)) return `${digits}e${sign}${power.padStart(2, '0')}`
  return Number.isInteger(value) ? `${value}.0` : String(value)
}

/** Writes what `str` makes of it; a number is an int. */
export function text(value: string | number | boolean | null): string {
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  return value === null ? 'None' : String(value)
}
