"""The program that :mod:`caloforge.deployment.edm4hep` runs beside itself: blocks of hits in a folder to a ROOT file.

    python edm4hep_root.py FOLDER FILE

It imports nothing of the package. Structures have the names and members of EDM4hep 1.0 (schema 6) and podio 1.3.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 6
PODIO, EDM4HEP = (1, 3, 0), (1, 0, 0)

STRUCTURES = """
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>
namespace podio {
struct ObjectID { int index{-1}; uint32_t collectionID{0}; };
namespace version { struct Version { uint16_t major{0}, minor{0}, patch{0}; }; }
namespace root_utils {
struct CollectionWriteInfo {
  uint32_t collectionID{0}; std::string dataType{}; bool isSubset{false}; unsigned int schemaVersion{0};
  std::string name{}; std::string storageType{};
};
}
}
namespace edm4hep {
struct Vector3f { float x{0}, y{0}, z{0}; };
struct Vector3d { double x{0}, y{0}, z{0}; };
struct SimCalorimeterHitData {
  uint64_t cellID{0}; float energy{0}; edm4hep::Vector3f position{}; unsigned int contributions_begin{0}, contributions_end{0};
};
struct CaloHitContributionData {
  int32_t PDG{0}; float energy{0}; float time{0}; edm4hep::Vector3f stepPosition{}; float stepLength{0};
};
struct MCParticleData {
  int32_t PDG{0}, generatorStatus{0}, simulatorStatus{0}; float charge{0}, time{0}; double mass{0};
  edm4hep::Vector3d vertex{}, endpoint{}, momentum{}, momentumAtEndpoint{}; int32_t helicity{9};
  unsigned int parents_begin{0}, parents_end{0}, daughters_begin{0}, daughters_end{0};
};
struct EventHeaderData {
  uint64_t eventNumber{0}; uint32_t runNumber{0}; uint64_t timeStamp{0}; double weight{0};
  unsigned int weights_begin{0}, weights_end{0};
};
}
namespace caloforge {
struct Event {
  std::vector<edm4hep::EventHeaderData> header;
  std::vector<edm4hep::MCParticleData> particles;
  std::vector<edm4hep::SimCalorimeterHitData> hits;
  std::vector<edm4hep::CaloHitContributionData> contributions;
  std::vector<podio::ObjectID> parents, daughters, of_hits, of_contributions;
  std::vector<double> weights;

  void fill(uint64_t number, int pdg, int status, double mass, double charge, const double* momentum, int64_t count,
            const uint64_t* cell, const float* place, const float* energy, const float* time, uint32_t particles_id,
            uint32_t contributions_id) {
    header.assign(1, {});
    header[0].eventNumber = number;
    header[0].weight = 1;
    particles.assign(1, {});
    auto& p = particles[0];
    p.PDG = pdg;
    p.generatorStatus = 1;
    p.simulatorStatus = status;
    p.mass = mass;
    p.charge = float(charge);
    p.momentum = {momentum[0], momentum[1], momentum[2]};
    hits.assign(size_t(count), {});
    contributions.assign(size_t(count), {});
    of_hits.assign(size_t(count), {});
    of_contributions.assign(size_t(count), {});
    for (int64_t k = 0; k < count; ++k) {
      const edm4hep::Vector3f where{place[3 * k], place[3 * k + 1], place[3 * k + 2]};
      hits[k].cellID = cell[k];
      hits[k].energy = contributions[k].energy = energy[k];
      hits[k].position = contributions[k].stepPosition = where;
      hits[k].contributions_begin = unsigned(k);
      hits[k].contributions_end = unsigned(k + 1);
      contributions[k].PDG = pdg;
      contributions[k].time = time[k];
      of_hits[k] = {int(k), contributions_id};
      of_contributions[k] = {0, particles_id};
    }
  }
};
}
"""


def generic(root: Any, tree: Any, strings: dict[str, str]) -> list[Any]:
    """The eight branches that hold whatever else belongs to an event or a file."""
    kept = []
    for name, kind in (("Int", "int"), ("Float", "float"), ("Double", "double"), ("String", "std::string")):
        keys, values = root.std.vector["std::string"](), root.std.vector[f"std::vector<{kind}>"]()
        if name == "String":
            for key, text in strings.items():
                keys.push_back(key)
                one = root.std.vector["std::string"]()
                one.push_back(text)
                values.push_back(one)
        tree.Branch(f"GP{name}Keys", keys)
        tree.Branch(f"GP{name}Values", values)
        kept += [keys, values]
    return kept


def write_events(root: Any, folder: Path, settings: dict[str, Any]) -> None:
    """The tree with one entry for each shower."""
    tree, event, name = root.TTree("events", "events data tree"), root.caloforge.Event(), settings["collection"]
    # A branch knows where our handle of its vector lies, so handles have to stay.
    vectors = {
        "EventHeader": event.header,
        "_EventHeader_weights": event.weights,
        "MCParticles": event.particles,
        "_MCParticles_parents": event.parents,
        "_MCParticles_daughters": event.daughters,
        name: event.hits,
        f"_{name}_contributions": event.of_hits,
        f"{name}Contributions": event.contributions,
        f"_{name}Contributions_particle": event.of_contributions,
    }
    for branch, vector in vectors.items():
        if not tree.Branch(branch, vector):
            raise RuntimeError(f"no branch {branch}")
    kept = generic(root, tree, {})
    ids = settings["ids"]
    for number in range(1, settings["blocks"] + 1):
        with np.load(folder / f"{number}.npz") as columns:
            block = {key: np.ascontiguousarray(columns[key]) for key in columns.files}
        offsets, (pdg, status), (mass, charge) = block["offsets"], block["particle"], block["mass"]
        for row in range(len(offsets) - 1):
            some = slice(int(offsets[row]), int(offsets[row + 1]))
            # An empty array has no address.
            cell, place, energy, time = (
                block[key][some] if some.stop > some.start else np.zeros((1, 3), block[key].dtype)
                for key in ("cell", "place", "energy", "time")
            )
            event.fill(
                int(block["first"][0]) + row, int(pdg), int(status), float(mass), float(charge), block["momentum"][row],
                some.stop - some.start, cell, place, energy, time, ids["MCParticles"], ids[f"{name}Contributions"],
            )  # fmt: skip
            tree.Fill()
    tree.Write()
    del vectors, kept


def write_metadata(root: Any, settings: dict[str, Any]) -> None:
    """The encoding of the cells, and podio's table of what the file holds."""
    name = settings["collection"]
    tree = root.TTree("metadata", "metadata data tree")
    kept = generic(root, tree, {f"{name}__CellIDEncoding": settings["encoding"]})
    tree.Fill()
    tree.Write()
    table, none = (root.std.vector["podio::root_utils::CollectionWriteInfo"]() for _ in range(2))
    for collection, kind in {
        "EventHeader": "EventHeader",
        "MCParticles": "MCParticle",
        name: "SimCalorimeterHit",
        f"{name}Contributions": "CaloHitContribution",
    }.items():
        entry = root.podio.root_utils.CollectionWriteInfo()
        entry.collectionID, entry.name, entry.isSubset = settings["ids"][collection], collection, False
        entry.dataType, entry.storageType = f"edm4hep::{kind}Collection", f"std::vector<edm4hep::{kind}Data>"
        entry.schemaVersion = SCHEMA
        table.push_back(entry)
    tree = root.TTree("podio_metadata", "metadata tree for podio I/O functionality")
    tree.Branch("events___CollectionTypeInfo", table)
    tree.Branch("metadata___CollectionTypeInfo", none)
    versions = []
    for branch, numbers in (("PodioBuildVersion", PODIO), ("edm4hep___Version", EDM4HEP)):
        version = root.podio.version.Version()
        version.major, version.minor, version.patch = numbers
        tree.Branch(branch, "podio::version::Version", version)
        versions.append(version)
    definitions = root.std.vector["std::tuple<std::string,std::string>"]()
    tree.Branch("EDMDefinitions", definitions)
    tree.Fill()
    tree.Write()
    del kept


def main(folder: Path, target: Path) -> None:
    """Write the file."""
    import ROOT as root  # noqa: N811

    root.gROOT.SetBatch(True)
    root.gErrorIgnoreLevel = root.kError
    if not root.gInterpreter.Declare(STRUCTURES):
        raise RuntimeError("the structures were not understood")
    settings = json.loads((folder / "settings.json").read_text())
    # Into its own folder first: ROOT takes the ending of a name for a wish.
    file = root.TFile(str(folder / "out.root"), "recreate")
    write_events(root, folder, settings)
    write_metadata(root, settings)
    file.Close()
    target.write_bytes((folder / "out.root").read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # what ROOT tidies up at the end may fail, and the file is whole
