"""A network as C: arrays of weights by core, rescaling, and loops over whole layers that say what is to be computed.

network.h declares, network.c defines; both are C99 and need nothing but integers of 64 bits. The loops are for holding
a device's own code against, image by image; plan.json has the tiles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cosoc.search.exports.exported import SIZES, Exported, bits_of
from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import Piece, Rescale
from cosoc.sim.model.workload import INPUT, Layer

PER_LINE = 16
OPS = {"conv": 0, "add": 1, "max_pool": 2, "avg_pool": 3, "concat": 4}

HEADER = """\
/* {title}
   Written by cosoc. Integers of {tensors} tensors: out = clip((sum of multiplier x sums + offset) >> shift, low, high);
   the last layer's sums leave as they are: output i of the network is step[k] * sums[k] + bias[k], k = order[i]. */
#ifndef COSOC_NETWORK_H
#define COSOC_NETWORK_H

#include <stdint.h>

#define COSOC_INPUTS {inputs} /* c = {c}, rows = {iy}, columns = {ix}; {low} .. {high}, each {step!r} */
#define COSOC_SUMS {sums}
#define COSOC_OUTPUTS {outputs}

/* Output channels of a layer on one core, its weights [channels, c/groups, fy, fx]. */
typedef struct {{
  const char *core;
  int channels, bits;
  const int8_t *weights;
}} cosoc_part;

enum {{ COSOC_CONV, COSOC_ADD, COSOC_MAX_POOL, COSOC_AVG_POOL, COSOC_CONCAT }};

/* Output channels of a layer that are computed in one form, from channel `first` on. input: numbers of the tensors that
   it reads, 0 for the image, n + 1 for what layer n makes, from channel `reads` on. rows of multiplier: as many as
   operands of a sum, each of k. adc: 0, or which channels are read by converters, each `block` input channels on their
   own: what adds up is clip((adc_multiplier x sum + adc_offset) >> adc_shift, adc_low, adc_high). */
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
extern const double cosoc_step[COSOC_SUMS / {each}], cosoc_bias[COSOC_SUMS / {each}];

/* Sums of the last layer for an image; scores are the network's outputs as real numbers. */
void cosoc_run(const int16_t image[COSOC_INPUTS], int64_t sums[COSOC_SUMS]);
void cosoc_scores(const int64_t sums[COSOC_SUMS], double scores[COSOC_OUTPUTS * {each}]);

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

static int64_t result(const cosoc_layer *layer, const cosoc_form *l, const int8_t *w, int k, int oy, int ox) {
  int64_t at = ((int64_t)k * l->oy + oy) * l->ox + ox, total = 0;
  if (l->op == COSOC_ADD) {
    for (int i = 0; i < l->operands; i++)
      total += (int64_t)l->multiplier[i * l->k + k] * tensors[l->input[i]][at];
  } else if (l->op == COSOC_CONCAT) {
    int i = 0;
    int64_t before = 0, size = 0;
    for (;; i++, before += size) { /* the operand that has this channel */
      size = l->input[i] ? (int64_t)cosoc_network[l->input[i] - 1].k * l->oy * l->ox : (int64_t)COSOC_INPUTS;
      if (at < before + size) break;
    }
    total = (int64_t)l->multiplier[k] * tensors[l->input[i]][at - before];
  } else {
    total = one_sum(l, tensors[l->input[0]], w, k, oy, ox);
    if (!l->multiplier) return total;
    total *= l->multiplier[k];
  }
  total = shifted(total + l->offset[k], l->shift[k]);
  return total < layer->low ? layer->low : total > layer->high ? layer->high : total;
}

void cosoc_run(const int16_t image[COSOC_INPUTS], int64_t sums[COSOC_SUMS]) {
  for (int i = 0; i < COSOC_INPUTS; i++) tensors[0][i] = image[i];
  for (int n = 0; n < cosoc_layers; n++) {
    const cosoc_layer *layer = &cosoc_network[n];
    int64_t at = 0;
    for (int f = 0; f < layer->forms; f++) {
      const cosoc_form *l = &layer->form[f];
      int64_t each = (int64_t)(l->c / l->groups) * l->fy * l->fx;
      int k = 0;
      for (int p = 0; p < l->parts; p++)
        for (int i = 0; i < l->part[p].channels; i++, k++)
          for (int oy = 0; oy < l->oy; oy++)
            for (int ox = 0; ox < l->ox; ox++, at++) {
              const int8_t *w = l->part[p].weights ? l->part[p].weights + i * each : 0;
              int64_t found = result(layer, l, w, k, oy, ox);
              if (n == cosoc_layers - 1)
                sums[at] = found;
              else
                tensors[n + 1][at] = (int16_t)found;
            }
    }
  }
}

void cosoc_scores(const int64_t sums[COSOC_SUMS], double scores[COSOC_OUTPUTS * EACH]) {
  for (int i = 0; i < COSOC_OUTPUTS; i++)
    for (int j = 0; j < EACH; j++) {
      int k = cosoc_order[i];
      scores[i * EACH + j] = cosoc_step[k] * (double)sums[k * EACH + j] + cosoc_bias[k];
    }
}
"""


def files(one: Exported) -> dict[str, str]:
    """network.h and network.c. InputError where the network has weights beyond 8 bits, or further outputs."""
    layers = list(one.workload)
    for layer in layers:
        if layer.op not in OPS or one.network.layers[layer.name].constant is not None:
            what = layer.fn or layer.op
            raise InputError(f"layer {layer.name} ({what}): c-array has integers alone, of {', '.join(OPS)}")
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
        each=last.oy * last.ox,
    )  # fmt: skip


def _source(one: Exported, layers: Sequence[Layer]) -> str:
    number = {INPUT: 0} | {layer.name: n + 1 for n, layer in enumerate(layers)}
    c, iy, ix = one.workload.input_shape
    text, rows = ['#include "network.h"\n'], []
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
    each = layers[-1].oy * layers[-1].ox
    return "".join(text) + LOOPS.replace("EACH", str(each))


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
    figures = (OPS[mine.op], len(inputs), len(parts), piece.first, reads, *(getattr(mine, key) for key in SIZES))
    return text, f"{{{', '.join(map(str, figures))}, {name}_input, {arrays}, {name}_part, {adc}}}"


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
