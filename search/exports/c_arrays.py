"""A network as C: arrays of weights by core, rescaling, and loops over whole layers that say what is to be computed.

network.h declares, network.c defines; both are C99 and need nothing but integers of 64 bits, and with norms, softmaxes
and GELU the mathematics of the standard library (-lm), as these are of doubles. The loops are for holding a device's
own code against, image by image; plan.json has the tiles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cosoc.search.exports.exported import SIZES, Exported, bits_of
from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import IntegerLayer, Piece, Rescale, joined_along
from cosoc.sim.integers.real import Real
from cosoc.sim.model.workload import INPUT, Layer

PER_LINE = 16
OPS = (
    "CONV", "ADD", "MAX_POOL", "AVG_POOL", "CONCAT", "COLUMNS", "BEHIND", "PRODUCT", "KEYS", "ADDED", "SLICE", "ROWS",
    "NORM", "SOFTMAX", "GELU", "GELU_TANH",
)  # fmt: skip
FUNCTIONS = {"layer_norm": "NORM", "softmax": "SOFTMAX", "gelu": "GELU", "gelu_tanh": "GELU_TANH"}
MOST = 2**15 - 1  # of a tensor's integers

HEADER = """\
/* {title}
   Written by cosoc. Integers of {tensors} tensors: out = clip((sum of multiplier x sums + offset) >> shift, low, high);
   the last layer's sums leave as they are, or as integers of its tensor where it is no convolution: channel i of the
   network's outputs is step[k] * sums[k] + bias[k], k = order[i]{rows}. */
#ifndef COSOC_NETWORK_H
#define COSOC_NETWORK_H

#include <stdint.h>

#define COSOC_INPUTS {inputs} /* c = {c}, rows = {iy}, columns = {ix}; {low} .. {high}, each {step!r} */
#define COSOC_SUMS {sums}
#define COSOC_OUTPUTS {outputs} /* channels of the outputs, of so many pixels each */
#define COSOC_PIXELS {each}

/* Output channels of a layer on one core, its weights [channels, c/groups, fy, fx]. */
typedef struct {{
  const char *core;
  int channels, bits;
  const int8_t *weights;
}} cosoc_part;

/* CONCAT: channels side by side; COLUMNS: columns; BEHIND: columns behind constant ones. PRODUCT: of a tensor, in the
   place of weights [k, c/groups], with another, head by head; KEYS: the same with one [c, k/groups] of each head.
   ADDED: a sum with a constant. SLICE: some columns. ROWS: of a table, by the numbers that the image is. */
enum {{
  {ops}
}};

/* A function of real numbers: round(f(x * reads) / makes), halves to even, of the `of` channels of a norm's pixel or of
   a softmax's head, or of one. weight, bias: of a norm by channel, to whose variance eps is added. */
typedef struct {{
  int of;
  double reads, makes, eps;
  const double *weight, *bias;
}} cosoc_real;

/* Output channels of a layer that are computed in one form, from channel `first` on. input: numbers of the tensors that
   it reads, 0 for the image, n + 1 for what layer n makes, from channel `reads` on. rows of multiplier: as many as
   operands of a sum, each of k; 0 where what it makes is not rescaled. adc: 0, or which channels are read by
   converters, each `block` input channels on their own: what adds up is
   clip((adc_multiplier x sum + adc_offset) >> adc_shift, adc_low, adc_high). constant [k, oy, columns]: what is added,
   or stands before other columns; of a table [rows, k]. columns: of a slice, the first that it takes. */
typedef struct {{
  int op, operands, parts, first, reads;
  int k, c, oy, ox, iy, ix, fy, fx, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, groups;
  const int *input;
  const int32_t *multiplier;
  const int64_t *offset;
  const uint8_t *shift;
  const cosoc_part *part;
  int block, adc_low, adc_high;
  const uint8_t *adc;
  const int32_t *adc_multiplier;
  const int64_t *adc_offset;
  const uint8_t *adc_shift;
  int columns;
  const int16_t *constant;
  const cosoc_real *real;
}} cosoc_form;

/* A layer, which makes k channels of oy rows and ox columns. */
typedef struct {{
  const char *name;
  int forms, k, oy, ox;
  int32_t low, high;
  const cosoc_form *form;
}} cosoc_layer;

extern const int cosoc_layers;
extern const cosoc_layer cosoc_network[];
extern const int cosoc_order[COSOC_OUTPUTS];
extern const double cosoc_step[COSOC_SUMS / COSOC_PIXELS], cosoc_bias[COSOC_SUMS / COSOC_PIXELS];

/* Sums of the last layer for an image; scores are the network's outputs as real numbers. */
void cosoc_run(const int16_t image[COSOC_INPUTS], int64_t sums[COSOC_SUMS]);
void cosoc_scores(const int64_t sums[COSOC_SUMS], double scores[COSOC_OUTPUTS * COSOC_PIXELS]);

#endif
"""

LOOPS = """\
/* Rounds downwards, whatever a compiler makes of shifts of negative numbers. */
static int64_t shifted(int64_t x, int by) {
  return x >= 0 ? x >> by : -((-x + (((int64_t)1 << by) - 1)) >> by);
}

static int64_t converted(const cosoc_form *l, int64_t sum, int k) {
  sum = shifted(l->adc_multiplier[k] * sum + l->adc_offset[k], l->adc_shift[k]);
  return sum < l->adc_low ? l->adc_low : sum > l->adc_high ? l->adc_high : sum;
}

static int64_t one_sum(const cosoc_form *l, const int16_t *x, const int8_t *w, int k, int oy, int ox) {
  int64_t sum = l->op == COSOC_MAX_POOL ? INT64_MIN : 0, part = 0;
  int c = l->op == COSOC_CONV ? l->c / l->groups : 1;
  int first = l->reads + (l->op == COSOC_CONV ? k / (l->k / l->groups) * c : k);
  for (int i = 0; i < c; i++) {
    for (int fy = 0; fy < l->fy; fy++)
      for (int fx = 0; fx < l->fx; fx++) {
        int y = oy * l->stride_y - l->pad_y + fy * l->dilation_y;
        int col = ox * l->stride_x - l->pad_x + fx * l->dilation_x;
        if (y < 0 || y >= l->iy || col < 0 || col >= l->ix) continue;
        int64_t value = x[((int64_t)(first + i) * l->iy + y) * l->ix + col];
        if (l->op == COSOC_MAX_POOL)
          sum = value > sum ? value : sum;
        else
          part += l->op == COSOC_CONV ? value * w[((int64_t)i * l->fy + fy) * l->fx + fx] : value;
      }
    if (l->adc && l->adc[k]) {
      if ((i + 1) % l->block && i + 1 < c) continue;
      part = converted(l, part, k);
    }
    sum += part;
    part = 0;
  }
  return sum;
}

static int64_t multiplied(const cosoc_form *l, int k, int64_t column) {
  int c = l->c / l->groups, of = l->k / l->groups, head = k / of;
  const int16_t *x = tensors[l->input[0]] + (int64_t)head * c * l->ox, *w = tensors[l->input[1]];
  int64_t sum = 0;
  for (int i = 0; i < c; i++)
    sum += (int64_t)x[i * (int64_t)l->ox + column] *
           w[l->op == COSOC_KEYS ? ((int64_t)head * c + i) * of + k % of : (int64_t)k * c + i];
  return sum;
}

/* The element of those that stand side by side: of each operand in turn `of` elements, each repeated all `every`. */
static int64_t beside(const cosoc_form *l, int64_t at, int axis) {
  int64_t before = 0, every = axis ? l->ox : (int64_t)l->k * l->oy * l->ox, row = at / every, within = at % every;
  for (int i = 0;; i++) {
    int n = l->input[i];
    int64_t size = n ? (int64_t)cosoc_network[n - 1].k * cosoc_network[n - 1].oy * cosoc_network[n - 1].ox
                     : (int64_t)COSOC_INPUTS;
    size /= axis ? (int64_t)l->k * l->oy : 1;
    if (within < before + size) return tensors[n][row * size + within - before];
    before += size;
  }
}

static int64_t result(const cosoc_layer *layer, const cosoc_form *l, const int8_t *w, int k, int oy, int ox) {
  int64_t row = (int64_t)k * l->oy + oy, at = row * l->ox + ox, total = 0;
  const int16_t *x = tensors[l->input[0]];
  switch (l->op) {
  case COSOC_ADD:
    for (int i = 0; i < l->operands; i++)
      total += (int64_t)l->multiplier[i * l->k + k] * tensors[l->input[i]][at];
    break;
  case COSOC_ADDED:
    total = (int64_t)l->multiplier[k] * x[at] + (int64_t)l->multiplier[l->k + k] * l->constant[at];
    break;
  case COSOC_ROWS:
    return l->constant[(int64_t)x[(int64_t)oy * l->ox + ox] * l->k + k];
  case COSOC_CONCAT:
    total = beside(l, at, 0);
    break;
  case COSOC_COLUMNS:
    total = beside(l, at, 1);
    break;
  case COSOC_BEHIND:
    total = ox < l->columns ? l->constant[row * l->columns + ox] : x[row * (l->ox - l->columns) + ox - l->columns];
    break;
  case COSOC_SLICE:
    total = x[((int64_t)k * l->iy + oy) * l->ix + l->columns + ox];
    break;
  case COSOC_PRODUCT:
  case COSOC_KEYS:
    total = multiplied(l, k, ox);
    break;
  default:
    total = one_sum(l, x, w, k, oy, ox);
  }
  if (!l->multiplier) return total;
  if (l->op != COSOC_ADD && l->op != COSOC_ADDED) total *= l->multiplier[k];
  total = shifted(total + l->offset[k], l->shift[k]);
  return total < layer->low ? layer->low : total > layer->high ? layer->high : total;
}
static void put(int n, int64_t at, int64_t found, int64_t *sums) {
  if (n == cosoc_layers - 1)
    sums[at] = found;
  else
    tensors[n + 1][at] = (int16_t)found;
}
REAL
void cosoc_run(const int16_t image[COSOC_INPUTS], int64_t sums[COSOC_SUMS]) {
  for (int i = 0; i < COSOC_INPUTS; i++) tensors[0][i] = image[i];
  for (int n = 0; n < cosoc_layers; n++) {
    const cosoc_layer *layer = &cosoc_network[n];
    int64_t at = 0;
    for (int f = 0; f < layer->forms; f++) {
      const cosoc_form *l = &layer->form[f];
CALL      int64_t each = (int64_t)(l->c / l->groups) * l->fy * l->fx;
      int k = 0;
      for (int p = 0; p < l->parts; p++)
        for (int i = 0; i < l->part[p].channels; i++, k++)
          for (int oy = 0; oy < l->oy; oy++)
            for (int ox = 0; ox < l->ox; ox++, at++) {
              const int8_t *w = l->part[p].weights ? l->part[p].weights + i * each : 0;
              put(n, at, result(layer, l, w, k, oy, ox), sums);
            }
    }
  }
}

void cosoc_scores(const int64_t sums[COSOC_SUMS], double scores[COSOC_OUTPUTS * COSOC_PIXELS]) {
  for (int i = 0; i < COSOC_OUTPUTS; i++)
    for (int j = 0; j < COSOC_PIXELS; j++) {
      int k = cosoc_order[i];
      scores[PLACE] = cosoc_step[k] * (double)sums[k * COSOC_PIXELS + j] + cosoc_bias[k];
    }
}
"""

REAL = """
static double of_one(const cosoc_form *l, double x, double shift, double scale, int k) {
  switch (l->op) {
  case COSOC_NORM:
    return (x - shift) / scale * l->real->weight[k] + l->real->bias[k];
  case COSOC_SOFTMAX:
    return exp(x - shift) / scale;
  case COSOC_GELU:
    return x * 0.5 * (1 + erf(x / sqrt(2.0)));
  default:
    return x * 0.5 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
  }
}

static void real(int n, const cosoc_form *l, int64_t *sums) {
  const cosoc_layer *layer = &cosoc_network[n];
  const cosoc_real *f = l->real;
  int64_t pixels = (int64_t)l->oy * l->ox;
  for (int k = 0; k < l->k; k += f->of)
    for (int64_t pixel = 0; pixel < pixels; pixel++) {
      const int16_t *x = tensors[l->input[0]] + k * pixels + pixel;
      double shift = 0, scale = 0; /* mean and deviation of a norm, maximum and sum of a softmax */
      if (l->op == COSOC_NORM) {
        for (int i = 0; i < f->of; i++) shift += x[i * pixels] * f->reads / f->of;
        for (int i = 0; i < f->of; i++) {
          double off = x[i * pixels] * f->reads - shift;
          scale += off * off;
        }
        scale = sqrt(scale / f->of + f->eps);
      } else if (l->op == COSOC_SOFTMAX) {
        shift = x[0] * f->reads;
        for (int i = 1; i < f->of; i++) shift = fmax(shift, x[i * pixels] * f->reads);
        for (int i = 0; i < f->of; i++) scale += exp(x[i * pixels] * f->reads - shift);
      }
      for (int i = 0; i < f->of; i++) {
        double made = rint(of_one(l, x[i * pixels] * f->reads, shift, scale, k + i) / f->makes);
        put(n, (k + i) * pixels + pixel, (int64_t)fmax(layer->low, fmin(layer->high, made)), sums);
      }
    }
}
"""


def files(one: Exported) -> dict[str, str]:
    """network.h and network.c. InputError where the network has weights beyond 8 bits, numbers of rows, say, beyond 16,
    or further outputs."""
    layers = list(one.workload)
    for name, about in one.network.tensors.items():
        if max(-about.low, about.high) > MOST:
            raise InputError(f"{name}: integers of {about.low} .. {about.high}; c-array has 16 bits")
    if layers[-1].name != one.workload.outputs[0]:
        raise InputError(f"{one.workload.name}: its output is not its last layer; c-array needs that")
    return {"network.h": _header(one), "network.c": _source(one, layers)}


def _header(one: Exported) -> str:
    c, iy, ix = one.workload.input_shape
    last, image = one.workload[one.workload.outputs[0]], one.network.tensors[INPUT]
    title = _comment(f"{one.workload.name} on {one.soc.name}, {one.point}")
    return HEADER.format(
        title=title, tensors=len(one.network.tensors), inputs=c * iy * ix, c=c, iy=iy, ix=ix, low=image.low,
        high=image.high, step=image.step, sums=last.k * last.oy * last.ox, outputs=len(one.order),
        each=last.oy * last.ox, rows=", column by column" if one.rows else "",
        ops=", ".join(f"COSOC_{name}" for name in OPS).replace(", COSOC_PRODUCT", ",\n  COSOC_PRODUCT"),
    )  # fmt: skip


def _source(one: Exported, layers: Sequence[Layer]) -> str:
    number = {INPUT: 0} | {layer.name: n + 1 for n, layer in enumerate(layers)}
    c, iy, ix = one.workload.input_shape
    real = any(about.real is not None for about in one.network.layers.values())
    text, rows = ['#include "network.h"\n' + "\n#include <math.h>\n" * real], []
    for n, layer in enumerate(layers):
        name, forms = f"l{n}_{_name(layer.name)}", []
        for i, piece in enumerate(one.pieces(layer)):
            made, form = _form(one, layer, piece, f"{name}_{i}", [number[each] for each in piece.layer.inputs])
            text += made
            forms.append(form)
        text.append(f"static const cosoc_form {name}[] = {{{', '.join(forms)}}};\n")
        makes = one.network.tensors.get(layer.name)
        low, high = (0, 0) if makes is None else (makes.low, makes.high)
        head = f"{_text(layer.name)}, {len(forms)}, {layer.k}, {layer.oy}, {layer.ox}"
        rows.append(f"  {{{head}, {low}, {high}, {name}}}")
    last = one.network.layers[layers[-1].name]
    assert last.step is not None and last.bias is not None
    text.append(f"\nconst int cosoc_layers = {len(layers)};\n")
    text.append("const cosoc_layer cosoc_network[] = {\n" + ",\n".join(rows) + "\n};\n")
    text.append(_array("const int", "cosoc_order", one.order.tolist()))
    text.append(_array("const double", "cosoc_step", [repr(x) for x in last.step.tolist()]))
    text.append(_array("const double", "cosoc_bias", [repr(x) for x in last.bias.tolist()]))
    elements = [c * iy * ix, *(layer.k * layer.oy * layer.ox for layer in layers[:-1])]
    text += [f"static int16_t tensor_{n}[{size}];\n" for n, size in enumerate(elements)]
    names = ", ".join(f"tensor_{n}" for n in range(len(elements)))
    text.append(f"static int16_t *const tensors[] = {{{names}}};\n\n")
    loops = LOOPS
    call = "      if (l->real) {\n        real(n, l, sums);\n        continue;\n      }\n"
    place = "j * COSOC_OUTPUTS + i" if one.rows else "i * COSOC_PIXELS + j"
    for mark, words in {"REAL\n": REAL + "\n" if real else "\n", "CALL": call if real else "", "PLACE": place}.items():
        loops = loops.replace(mark, words)
    return "".join(text) + loops


def _form(one: Exported, layer: Layer, piece: Piece, name: str, inputs: Sequence[int]) -> tuple[list[str], str]:
    """The arrays of a form, and it itself. inputs: numbers of the tensors that it reads."""
    mine, about = piece.layer, piece.about
    text, parts = [f"\n/* {_comment(layer.name)}: {mine.op} */\n"], []
    for first, part in one.parts(layer, piece):
        if about.weights is None:
            parts.append(f"{{{_text(part.core)}, {part.channels}, 0, 0}}")
            continue
        bits = bits_of(part, one.soc)
        if bits > 8:
            raise InputError(f"layer {layer.name}: weights of {bits} bits on {part.core}; c-array has up to 8")
        weights = about.weights[first : first + part.channels].reshape(-1).tolist()
        array = f"{name}_{_name(part.core)}_{first}"
        text.append(_array("static const int8_t", array, weights))
        parts.append(f"{{{_text(part.core)}, {part.channels}, {bits}, {array}}}")
    arrays = _rescale(text, about.rescale, f"{name}_") if about.rescale is not None else "0, 0, 0"
    adc, by = "0, 0, 0, 0, 0, 0, 0", about.converted
    if by is not None:
        text.append(_array("static const uint8_t", f"{name}_adc", by.on.astype(int).tolist()))
        adc = f"{by.block}, {by.by.low}, {by.by.high}, {name}_adc, {_rescale(text, by.by, f'{name}_adc_')}"
    text.append(f"static const int {name}_input[] = {{{', '.join(map(str, inputs))}}};\n")
    text.append(f"static const cosoc_part {name}_part[] = {{{', '.join(parts)}}};\n")
    reads = 0 if piece.reads is None else piece.reads[0]
    fixed, columns = "0", about.from_column
    values = about.constant if about.table is None else about.table
    if values is not None:
        fixed, columns = f"{name}_constant", values.shape[-1]
        text.append(_array("static const int16_t", fixed, values.reshape(-1).tolist()))
    real = "0" if about.real is None else _real(text, mine, about.real, f"{name}_real")
    figures = (len(inputs), len(parts), piece.first, reads, *(getattr(mine, key) for key in SIZES))
    arrays = f"{name}_input, {arrays}, {name}_part, {adc}, {columns}, {fixed}, {real}"
    return text, f"{{COSOC_{_op(one, mine, about)}, {', '.join(map(str, figures))}, {arrays}}}"


def _op(one: Exported, layer: Layer, about: IntegerLayer) -> str:
    """What a form computes, of OPS."""
    if about.real is not None:
        return FUNCTIONS[about.real.function]
    if layer.op == "eltwise":
        return "SLICE" if about.constant is None else "ADDED"
    if layer.op == "matmul":
        return "KEYS" if about.keys else "PRODUCT"
    if layer.op == "gather":
        return "ROWS"
    if layer.op == "concat" and about.constant is not None:
        return "BEHIND"
    shapes = [one.workload.input_shape[0] if name == INPUT else one.workload[name].k for name in layer.inputs]
    return "COLUMNS" if layer.op == "concat" and joined_along(layer, shapes) == 3 else layer.op.upper()


def _real(text: list[str], layer: Layer, about: Real, name: str) -> str:
    """Append what a function of real numbers is; a pointer to it."""
    arrays = []
    for key, values in (("weight", about.weight), ("bias", about.bias)):
        arrays.append("0" if values is None else f"{name}_{key}")
        if values is not None:
            text.append(_array("static const double", arrays[-1], [repr(x) for x in values.tolist()]))
    of = {"softmax": layer.k // about.groups, "layer_norm": layer.k}.get(about.function, 1)
    figures = f"{of}, {about.reads!r}, {about.makes!r}, {about.eps!r}, {', '.join(arrays)}"
    text.append(f"static const cosoc_real {name} = {{{figures}}};\n")
    return f"&{name}"


def _rescale(text: list[str], about: Rescale, name: str) -> str:
    """Append the arrays of a rescale; their names."""
    text.append(_array("static const int32_t", f"{name}multiplier", about.multiplier.reshape(-1).tolist()))
    text.append(_array("static const int64_t", f"{name}offset", [f"{x}LL" for x in about.offset.tolist()]))
    text.append(_array("static const uint8_t", f"{name}shift", about.shift.tolist()))
    return f"{name}multiplier, {name}offset, {name}shift"


def _array(kind: str, name: str, values: Sequence[object]) -> str:
    lines = [", ".join(map(str, values[at : at + PER_LINE])) for at in range(0, len(values), PER_LINE)]
    return f"{kind} {name}[{len(values)}] = {{\n  " + ",\n  ".join(lines) + "\n};\n"


def _text(text: str) -> str:
    """A string of C."""
    return '"' + re.sub(r"[^ !#-\[\]-~]", "_", text) + '"'


def _comment(text: str) -> str:
    """What may stand in a comment of C."""
    return re.sub(r"[^ -~]", "_", text).replace("*/", "* /").replace("/*", "/ *")


def _name(text: str) -> str:
    return re.sub(r"\W", "_", text, flags=re.ASCII)


__all__ = ["files"]
