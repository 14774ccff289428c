// A plug-in of DDG4: the exported model answers for a region of a DD4hep detector.
#include <DDG4/Factories.h>
#include <DDG4/Geant4FastSimShowerModel.h>

#include <memory>
#include <string>
#include <vector>

#include "caloforge/geant4.hpp"
#include "caloforge/geant4_hits.hpp"

namespace dd4hep::sim {

// Properties, besides those of Geant4FastSimShowerModel (of which RegionName and Enable are used; species and energies are the
// model's): see the README. Lengths are mm, angles rad, energies MeV.
class CaloForgeShowerModel : public Geant4FastSimShowerModel {
public:
    CaloForgeShowerModel(Geant4Context* context, const std::string& name) : Geant4FastSimShowerModel(context, name) {
        declareProperty("ModelPath", path_);
        declareProperty("Seed", seed_);
        declareProperty("FirstEvent", first_event_);
        declareProperty("MaxAngle", settings_.max_angle);
        declareProperty("MaxOffset", settings_.max_offset);
        declareProperty("SpotsPerVoxel", settings_.spots_per_voxel);
        declareProperty("Tolerance", settings_.tolerance);
        declareProperty("BarrelRadius", radius_);
        declareProperty("BarrelSides", sides_);
        declareProperty("BarrelPhi", phi_);
        declareProperty("BarrelMargin", margin_);
        declareProperty("Faces", faces_);
    }

    // Once in each thread: the model belongs to it, the weights to all.
    void constructSensitives(Geant4DetectorConstructionContext*) override {
        if (!m_enable) return;
        try {
            if (!weights_) weights_ = std::make_shared<const caloforge::Model>(path_);
            m_model = new caloforge::geant4::FastSimulation(
                name(), weights_, caloforge::geant4::SensitiveHits(caloforge::geant4::HitFrame::world), settings());
        } catch (const caloforge::Error& error) {
            except("%s: %s", name().c_str(), error.what());
        }
        addShowerModel(getRegion(m_regionName));
    }

private:
    caloforge::geant4::Settings settings() const {
        caloforge::geant4::Settings made = settings_;
        if (seed_ < 0) throw caloforge::Error(CF_ARGUMENT, "Seed is below 0");
        made.seed = uint64_t(seed_);
        made.first_event = first_event_;
        if (faces_.size() % 9) throw caloforge::Error(CF_ARGUMENT, "Faces needs nine numbers for each: origin, x and y");
        for (size_t k = 0; k < faces_.size(); k += 9) {
            const double* f = faces_.data() + k;
            caloforge::geant4::Face face;
            face.origin = {f[0], f[1], f[2]}, face.x = {f[3], f[4], f[5]}, face.y = {f[6], f[7], f[8]};
            made.faces.push_back(face);
        }
        if (radius_ > 0) {
            if (sides_ < 3) throw caloforge::Error(CF_ARGUMENT, "BarrelSides is below 3");
            for (const caloforge::geant4::Face& face : caloforge::geant4::barrel(radius_, sides_, phi_, margin_)) made.faces.push_back(face);
        }
        return made;
    }

    std::string path_;
    long seed_ = 0, first_event_ = 0;
    double radius_ = 0, phi_ = 0, margin_ = 0;
    int sides_ = 8;
    std::vector<double> faces_;
    caloforge::geant4::Settings settings_;
    std::shared_ptr<const caloforge::Model> weights_;
};

}  // namespace dd4hep::sim

DECLARE_GEANT4ACTION_NS(dd4hep::sim, CaloForgeShowerModel)
